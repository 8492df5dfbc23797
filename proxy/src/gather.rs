//! Small messages leave in one plain `send`: the kernel takes longer to import a vector than we take to copy a head and a
//! short body together. Large ones stay vectored and are not copied.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A head with a few fields and a short body.
const SMALL: usize = 2048;

/// A socket whose short vectored writes are gathered.
#[derive(Debug)]
pub(crate) struct Gather<T>(pub(crate) T);

impl<T: AsyncRead + Unpin> AsyncRead for Gather<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.0);
        if let [whole] = slices {
            return stream.poll_write(cx, whole);
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total > SMALL {
            return stream.poll_write_vectored(cx, slices);
        }
        let mut gathered = [0; SMALL];
        let mut length = 0;
        for slice in slices {
            gathered[length..length + slice.len()].copy_from_slice(slice);
            length += slice.len();
        }
        stream.poll_write(cx, &gathered[..length])
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn written(parts: &[Vec<u8>]) -> Vec<u8> {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut near = Gather(near);
        let mut chain: std::collections::VecDeque<&[u8]> =
            parts.iter().map(Vec::as_slice).collect();
        while let Some(first) = chain.front() {
            if first.is_empty() {
                chain.pop_front();
                continue;
            }
            let slices: Vec<IoSlice<'_>> = chain.iter().map(|part| IoSlice::new(part)).collect();
            let mut count = near.write_vectored(&slices).await.unwrap();
            while let Some(part) = chain.pop_front() {
                if count < part.len() {
                    chain.push_front(&part[count..]);
                    break;
                }
                count -= part.len();
            }
        }
        drop(near);
        let mut all = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut far, &mut all)
            .await
            .unwrap();
        all
    }

    #[tokio::test]
    async fn what_is_written_arrives_in_order_whatever_its_size() {
        for sizes in [
            &[5][..],
            &[0, 5],
            &[200, 20],
            &[2000, 48],
            &[2000, 49],
            &[300, 100_000],
            &[1; 50],
        ] {
            let parts: Vec<Vec<u8>> = sizes
                .iter()
                .enumerate()
                .map(|(number, size)| vec![b'a' + (number % 26) as u8; *size])
                .collect();
            assert_eq!(written(&parts).await, parts.concat(), "{sizes:?}");
        }
    }
}
