"""Tables that are readable on a terminal and are Markdown as well."""


def print_table(head, rows):
    """The first column to the left, numbers to the right."""
    rows = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        cells = [cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths))]
        print("| " + " | ".join(cells) + " |", flush=True)
