//! Frame heads (RFC 9113 section 4.1) and the starts of header blocks, found in octets as they pass.

pub(super) const HEAD_BYTES: usize = 9;
const END_STREAM: u8 = 0x1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Updates of the table size before the first field of a block; more are of no use to anyone (RFC 7541 section 4.2).
const SIZE_UPDATES: u32 = 2;

/// What this module reads of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) kind: u8,
    flags: u8,
}

impl Head {
    pub(super) const DATA: u8 = 0x0;
    pub(super) const HEADERS: u8 = 0x1;
    pub(super) const RST_STREAM: u8 = 0x3;
    pub(super) const SETTINGS: u8 = 0x4;
    pub(super) const GOAWAY: u8 = 0x7;
    pub(super) const CONTINUATION: u8 = 0x9;

    pub(super) fn ends_stream(self) -> bool {
        matches!(self.kind, Self::DATA | Self::HEADERS) && self.flags & END_STREAM != 0
    }
}

/// Finds the frame heads in octets that arrive in pieces of any size.
#[derive(Debug)]
pub(super) struct Frames {
    /// What is left of a payload, or of the preface.
    skip: usize,
    head: [u8; HEAD_BYTES],
    /// How much of `head` is there.
    length: usize,
    /// The header block that began last, and whether the payload at hand belongs to it.
    block: Block,
    is_block: bool,
}

impl Frames {
    pub(super) fn after(skip: usize) -> Self {
        Self {
            skip,
            head: [0; HEAD_BYTES],
            length: 0,
            block: Block::default(),
            is_block: false,
        }
    }

    /// Whether a header block began with more size updates than make sense.
    pub(super) fn has_idle_block(&self) -> bool {
        self.block.is_flood
    }

    /// The next head that is complete within `bytes`, which is left at what follows it.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let skipped = self.skip.min(bytes.len());
        if self.is_block {
            self.block.read(&bytes[..skipped]);
        }
        self.skip -= skipped;
        let rest = &bytes[skipped..];
        let taken = (HEAD_BYTES - self.length).min(rest.len());
        self.head[self.length..self.length + taken].copy_from_slice(&rest[..taken]);
        self.length += taken;
        *bytes = &rest[taken..];
        if self.length < HEAD_BYTES {
            return None;
        }
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.skip = length;
        self.length = 0;
        self.is_block = matches!(kind, Head::HEADERS | Head::CONTINUATION);
        if kind == Head::HEADERS {
            self.block.begin(flags);
        }
        Some(Head {
            length,
            kind,
            flags,
        })
    }
}

/// The start of a header block, up to its first field (RFC 7541 section 6.3).
#[derive(Debug, Default)]
struct Block {
    /// Octets of padding length and priority, before the block.
    skip: usize,
    is_leading: bool,
    /// Within the number of an update that takes more than an octet.
    is_number: bool,
    updates: u32,
    is_flood: bool,
}

impl Block {
    fn begin(&mut self, flags: u8) {
        *self = Self {
            skip: usize::from(flags & PADDED != 0) + 5 * usize::from(flags & PRIORITY != 0),
            is_leading: true,
            is_flood: self.is_flood,
            ..Self::default()
        };
    }

    fn read(&mut self, bytes: &[u8]) {
        for octet in bytes {
            if !self.is_leading {
                return;
            }
            if self.skip > 0 {
                self.skip -= 1;
            } else if self.is_number {
                self.is_number = octet & 0x80 != 0;
            } else if octet & 0xe0 == 0x20 {
                self.is_number = octet & 0x1f == 0x1f;
                self.updates += 1;
                self.is_flood |= self.updates > SIZE_UPDATES;
                self.is_leading = !self.is_flood;
            } else {
                self.is_leading = false;
            }
        }
    }
}
