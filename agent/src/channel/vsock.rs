//! Connections over the guest's vsock.

use std::{
    io,
    pin::Pin,
    task::{Context as Task, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_vsock::VsockStream;

/// From 64 KiB on, newer kernels send one write as a packet of several pieces, of which `vhost-device-vsock` loses all
/// but the first. This costs no throughput on any back end.
const LARGEST_WRITE: usize = 32 << 10;

/// A connection that writes in pieces that every back end takes.
pub(super) struct Pieces(pub VsockStream);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..bytes.len().min(LARGEST_WRITE)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
