use super::*;

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.as_bytes().to_vec()).unwrap()
}

fn sealed(content: &[u8]) -> Vec<u8> {
    let mut sealing = Sealing::begin(Vec::new(), &passphrase("right")).unwrap();
    sealing.write_all(content).unwrap();
    sealing.finish().unwrap()
}

fn open(file: &[u8], text: &str) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    Opening::begin(file, &passphrase(text))?.read_to_end(&mut content)?;
    Ok(content)
}

#[test]
fn what_was_written_is_read_whatever_its_length() {
    for length in [
        0,
        1,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        CHUNK_BYTES + 1,
        2 * CHUNK_BYTES,
    ] {
        let content: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        let file = sealed(&content);
        assert_eq!(open(&file, "right").unwrap(), content, "{length} bytes");
    }
}

#[test]
fn another_passphrase_opens_nothing() {
    let error = open(&sealed(b"secret"), "wrong").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn a_file_that_was_cut_extended_or_changed_anywhere_is_refused() {
    let file = sealed(&vec![7; CHUNK_BYTES + 100]);
    let payload = file.len() - (CHUNK_BYTES + 100 + 2 * TAG_BYTES) - 16;
    // Behind the header, after the whole first chunk, and in the last.
    for end in [
        payload,
        payload + 16,
        payload + 16 + CHUNK_BYTES + TAG_BYTES,
        file.len() - 1,
    ] {
        assert!(open(&file[..end], "right").is_err(), "cut at {end}");
    }
    let longer = [&file[..], b"x"].concat();
    assert!(open(&longer, "right").is_err());
    for at in [payload - 5, payload + 3, payload + 20, file.len() - 1] {
        let mut changed = file.clone();
        changed[at] ^= 1;
        assert!(open(&changed, "right").is_err(), "changed at {at}");
    }
}

#[test]
fn headers_that_are_none_of_a_passphrase_are_refused() {
    let file = sealed(b"secret");
    let header = String::from_utf8_lossy(&file).into_owned();
    for (from, to) in [
        ("age-encryption.org/v1", "age-encryption.org/v2"),
        ("-> scrypt", "-> X25519"),
        (" 8\n", " 21\n"),
        (" 8\n", " 0\n"),
        (" 8\n", " 9\n"),
        (" 8\n", " 8 9\n"),
        ("--- ", "-- "),
    ] {
        assert!(header.contains(from), "{from}");
        let at = file
            .windows(from.len())
            .position(|part| part == from.as_bytes());
        let at = at.unwrap();
        let changed = [&file[..at], to.as_bytes(), &file[at + from.len()..]].concat();
        assert!(open(&changed, "right").is_err(), "{from} -> {to}");
    }
    for other in [&b""[..], b"age", b"\n\n\n\n--- \n", &[0xff; 5000]] {
        assert!(open(other, "right").is_err());
    }
}
