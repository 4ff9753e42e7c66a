//! Requests from the socket, each one packet.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use secrecy::zeroize::{Zeroize, Zeroizing};

use crate::wire::{self, PACKET_BYTES};

/// What was on the socket.
pub(super) enum Received {
    /// A request's sequence number and body.
    Job(u64, Zeroizing<Vec<u8>>),
    /// Nothing, so far.
    Nothing,
    /// The server has gone.
    Gone,
}

/// Room for a packet.
pub(super) struct Packets {
    buffer: Vec<u8>,
}

impl Packets {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; PACKET_BYTES] }
    }

    /// Takes the next request; waits as long as the socket's timeout says.
    pub(super) fn receive(&mut self, socket: &OwnedFd) -> rustix::io::Result<Received> {
        self.take(socket, RecvFlags::empty())
    }

    /// Takes the next request if there is one.
    pub(super) fn receive_now(&mut self, socket: &OwnedFd) -> rustix::io::Result<Received> {
        self.take(socket, RecvFlags::DONTWAIT)
    }

    fn take(&mut self, socket: &OwnedFd, flags: RecvFlags) -> rustix::io::Result<Received> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let count = loop {
            let mut slices = [IoSliceMut::new(&mut self.buffer)];
            match recvmsg(socket, &mut slices, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => break message.bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(error) => return Err(error),
            }
        };

        if count == 0 {
            return Ok(Received::Gone);
        }

        let rest = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });

        let packet = &mut self.buffer[..count];
        let request = read(packet, rest);

        // No more than was used: every page that is written to is copied once per supervisor.
        packet.zeroize();
        request
    }
}

/// The body is in the packet, or, when it is too long for that, in a file.
fn read(packet: &[u8], rest: Option<OwnedFd>) -> rustix::io::Result<Received> {
    let (sequence, length, first) = wire::parse_request_header(packet).ok_or(Errno::PROTO)?;
    let mut body = Zeroizing::new(Vec::with_capacity(length));
    match rest {
        None if first.len() == length => body.extend_from_slice(first),
        None => return Err(Errno::PROTO),
        Some(file) => {
            body.resize(length, 0);
            let read = File::from(file).read_exact_at(&mut body, 0);
            read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
    }
    Ok(Received::Job(sequence, body))
}
