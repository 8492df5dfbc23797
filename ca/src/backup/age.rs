//! Files as `age -p` makes and opens them: the age v1 format with its passphrase recipient
//! (<https://c2sp.org/age>), on the one crypto stack that the rest of the program uses.
//!
//! What it promises: a reader that comes to the end has read exactly what was written, by someone who knows the
//! passphrase. Before the end it knows of each 64 KiB that they are authentic and in their place, not that more follow.

use crate::keys::Passphrase;
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use scrypt::Params;
use std::io::{self, BufRead, BufReader, Read, Write};
use zeroize::Zeroizing;

#[cfg(test)]
mod tests;

const VERSION: &str = "age-encryption.org/v1";
const SCRYPT_LABEL: &[u8] = b"age-encryption.org/v1/scrypt";
/// Of a scrypt cost of 2^17, which takes 128 MiB and some tenths of a second.
const WORK_FACTOR: u8 = if cfg!(test) { 8 } else { 17 };
/// What a file may ask for: it is read before it can be authenticated.
const MAX_WORK_FACTOR: u8 = 20;
/// A passphrase header has about 150 bytes.
const MAX_HEADER_BYTES: u64 = 4096;
const FILE_KEY_BYTES: usize = 16;
const CHUNK_BYTES: usize = 64 * 1024;
const TAG_BYTES: usize = 16;

/// Encrypts what is written to it.
pub(super) struct Sealing<W: Write> {
    out: W,
    stream: Stream,
    chunk: Zeroizing<Vec<u8>>,
}

impl<W: Write> Sealing<W> {
    pub(super) fn begin(mut out: W, passphrase: &Passphrase) -> io::Result<Self> {
        let file_key = Zeroizing::new(random::<FILE_KEY_BYTES>());
        let salt = random::<16>();
        let mut body = file_key.to_vec();
        scrypt_key(passphrase, &salt, WORK_FACTOR)?
            .seal_in_place_append_tag(zero_nonce(), Aad::empty(), &mut body)
            .map_err(|_| io::Error::other("the file key could not be encrypted"))?;
        let header = format!(
            "{VERSION}\n-> scrypt {} {WORK_FACTOR}\n{}\n---",
            STANDARD_NO_PAD.encode(salt),
            STANDARD_NO_PAD.encode(&body),
        );
        let mac = hmac::sign(&header_key(&file_key)?, header.as_bytes());
        let nonce = random::<16>();
        writeln!(out, "{header} {}", STANDARD_NO_PAD.encode(mac.as_ref()))?;
        out.write_all(&nonce)?;
        Ok(Self {
            out,
            stream: Stream::new(&file_key, &nonce)?,
            chunk: Zeroizing::new(Vec::with_capacity(CHUNK_BYTES + TAG_BYTES)),
        })
    }

    /// Writes the end, without which nobody accepts the file, and gives back what is below.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.write_chunk(true)?;
        Ok(self.out)
    }

    fn write_chunk(&mut self, last: bool) -> io::Result<()> {
        let nonce = self.stream.next_nonce(last)?;
        self.stream
            .key
            .seal_in_place_append_tag(nonce, Aad::empty(), &mut *self.chunk)
            .map_err(|_| io::Error::other("a chunk could not be encrypted"))?;
        self.out.write_all(&self.chunk)?;
        self.chunk.clear();
        Ok(())
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only once more is there to come: the last chunk is marked, and may be a whole one.
        if self.chunk.len() == CHUNK_BYTES && !bytes.is_empty() {
            self.write_chunk(false)?;
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Chunks are whole.
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Decrypts what is read from it. The end of the file is authentic when `read` gives 0.
pub(super) struct Opening<R: Read> {
    source: BufReader<R>,
    stream: Stream,
    chunk: Zeroizing<Vec<u8>>,
    given: usize,
    ended: bool,
}

impl<R: Read> Opening<R> {
    /// # Errors
    /// `InvalidData` when it is not a file for a passphrase, or `PermissionDenied` when the passphrase is another.
    pub(super) fn begin(source: R, passphrase: &Passphrase) -> io::Result<Self> {
        let mut source = BufReader::new(source);
        let file_key = read_header(&mut source, passphrase)?;
        let mut nonce = [0; 16];
        source.read_exact(&mut nonce)?;
        Ok(Self {
            source,
            stream: Stream::new(&file_key, &nonce)?,
            chunk: Zeroizing::new(Vec::new()),
            given: 0,
            ended: false,
        })
    }

    fn read_chunk(&mut self) -> io::Result<()> {
        let first = self.stream.chunks == 0;
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + TAG_BYTES);
        let limit = (CHUNK_BYTES + TAG_BYTES) as u64;
        self.source.by_ref().take(limit).read_to_end(&mut chunk)?;
        let last = self.source.fill_buf()?.is_empty();
        let nonce = self.stream.next_nonce(last)?;
        let length = self
            .stream
            .key
            .open_in_place(nonce, Aad::empty(), &mut chunk)
            .map_err(|_| invalid("a part of the file was changed or cut off"))?
            .len();
        chunk.truncate(length);
        if length == 0 && !first {
            return Err(invalid("an empty part at the end of the file"));
        }
        self.chunk = Zeroizing::new(chunk);
        self.given = 0;
        self.ended = last;
        Ok(())
    }
}

impl<R: Read> Read for Opening<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given == self.chunk.len() && !self.ended {
            self.read_chunk()?;
        }
        let left = &self.chunk[self.given..];
        let given = left.len().min(into.len());
        into[..given].copy_from_slice(&left[..given]);
        self.given += given;
        Ok(given)
    }
}

/// The file key. Exactly one recipient, as the specification asks of passphrases.
fn read_header(
    source: &mut impl BufRead,
    passphrase: &Passphrase,
) -> io::Result<Zeroizing<[u8; FILE_KEY_BYTES]>> {
    let mut header = String::new();
    let mut limited = source.take(MAX_HEADER_BYTES);
    for _ in 0..4 {
        limited.read_line(&mut header)?;
    }
    let expected = || invalid("expected an age file that is encrypted with a passphrase");
    let (signed, mac) = header.rsplit_once("--- ").ok_or_else(expected)?;
    let mut lines = signed.split('\n');
    let (version, stanza, body) = (lines.next(), lines.next(), lines.next());
    if version != Some(VERSION) || (lines.next(), lines.next()) != (Some(""), None) {
        return Err(expected());
    }
    let arguments = stanza.and_then(|line| line.strip_prefix("-> scrypt "));
    let (salt, factor) = arguments
        .and_then(|arguments| arguments.split_once(' '))
        .ok_or_else(expected)?;
    let salt: [u8; 16] = decoded(salt).ok_or_else(expected)?;
    let factor: u8 = factor.parse().map_err(|_| expected())?;
    if !(1..=MAX_WORK_FACTOR).contains(&factor) {
        return Err(invalid("expected a scrypt work factor of at most 20"));
    }
    let mut body: [u8; FILE_KEY_BYTES + TAG_BYTES] = body.and_then(decoded).ok_or_else(expected)?;
    let opened = scrypt_key(passphrase, &salt, factor)?
        .open_in_place(zero_nonce(), Aad::empty(), &mut body)
        .map_err(|_| io::Error::new(io::ErrorKind::PermissionDenied, "the passphrase is wrong"))?;
    let mut file_key = Zeroizing::new([0; FILE_KEY_BYTES]);
    file_key.copy_from_slice(opened);
    let mac: [u8; 32] = mac
        .strip_suffix('\n')
        .and_then(decoded)
        .ok_or_else(expected)?;
    hmac::verify(
        &header_key(&file_key)?,
        format!("{signed}---").as_bytes(),
        &mac,
    )
    .map_err(|_| invalid("the header of the file was changed"))?;
    Ok(file_key)
}

/// The payload's key and the number of the next chunk.
struct Stream {
    key: LessSafeKey,
    chunks: u64,
}

impl Stream {
    fn new(file_key: &[u8; FILE_KEY_BYTES], nonce: &[u8; 16]) -> io::Result<Self> {
        let key = derive(file_key, nonce, b"payload")?;
        Ok(Self {
            key: aead_key(&*key)?,
            chunks: 0,
        })
    }

    /// 11 bytes of counter, big-endian, and whether this is the last.
    fn next_nonce(&mut self, last: bool) -> io::Result<Nonce> {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.chunks.to_be_bytes());
        nonce[11] = last.into();
        self.chunks = self
            .chunks
            .checked_add(1)
            .ok_or_else(|| invalid("a file without end"))?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

fn scrypt_key(passphrase: &Passphrase, salt: &[u8; 16], factor: u8) -> io::Result<LessSafeKey> {
    let params = Params::new(factor, 8, 1).map_err(io::Error::other)?;
    let salt = [SCRYPT_LABEL, salt].concat();
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(passphrase.reveal(), &salt, &params, &mut *key).map_err(io::Error::other)?;
    aead_key(&*key)
}

fn aead_key(key: &[u8]) -> io::Result<LessSafeKey> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key);
    Ok(LessSafeKey::new(key.map_err(io::Error::other)?))
}

fn header_key(file_key: &[u8; FILE_KEY_BYTES]) -> io::Result<hmac::Key> {
    let key = derive(file_key, &[], b"header")?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &*key))
}

fn derive(
    file_key: &[u8; FILE_KEY_BYTES],
    salt: &[u8],
    info: &[u8],
) -> io::Result<Zeroizing<[u8; 32]>> {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    let mut key = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, salt)
        .extract(file_key)
        .expand(&[info], Length)
        .and_then(|output| output.fill(&mut *key))
        .map_err(io::Error::other)?;
    Ok(key)
}

/// Each file key encrypts one body with this key.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn decoded<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD_NO_PAD.decode(text).ok()?.try_into().ok()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("AWS-LC's generator aborts rather than fail");
    bytes
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
