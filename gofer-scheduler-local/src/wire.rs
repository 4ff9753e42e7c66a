//! What the server and the zygote say to each other, over a SEQPACKET socket.
//!
//! A request is one packet, so that of several who wait for one whoever receives it has it whole: a
//! header (sequence number, length of the body) and the body. One that is too long for a packet is
//! in a file in memory that comes with the header. The body is a list of strings, each ended by a
//! NUL byte: nothing in it may contain one anyway, and the supervisor can hand the strings to
//! `execve` where they lie. A reply is one packet of 21 bytes.

use std::ffi::{CStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::zeroize::Zeroizing;

use crate::confinement::{Confinement, path_field};

/// Bytes of the header in front of a request.
pub(crate) const HEADER_BYTES: usize = 16;
/// Longest packet. Small enough for the default socket buffer to hold some, large enough for nearly
/// every request.
pub(crate) const PACKET_BYTES: usize = 32 * 1024;
/// Longest body: more than the kernel takes as arguments and environment together (6 MiB at the
/// most).
pub(crate) const MAX_BODY_BYTES: usize = 8 << 20;

/// Everything a supervisor needs to know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// The live entry to lock.
    pub(crate) live: PathBuf,
    /// The execution's directory.
    pub(crate) dir: PathBuf,
    /// Where the process runs; `None` is `work/`.
    pub(crate) working_dir: Option<PathBuf>,
    /// Start it again when it ends.
    pub(crate) service: bool,
    /// Stdout and stderr each get a pipe of their own.
    pub(crate) separate_output: bool,
    /// Bytes of output to keep.
    pub(crate) max_log_bytes: u64,
    /// Output is dropped while the disk has fewer bytes left.
    pub(crate) free_disk_min: u64,
    /// How long the process may run.
    pub(crate) timeout: Option<Duration>,
    /// The cgroup to run in, made by the server.
    pub(crate) cgroup: Option<PathBuf>,
    /// What it does not get.
    pub(crate) confinement: Confinement,
}

impl Launch {
    /// The body of a request: this, the program with its arguments, and the environment as
    /// `NAME=value`. It may hold secrets, so it is wiped when dropped.
    pub(crate) fn encode(
        &self,
        argv: &[OsString],
        env: &[Zeroizing<Vec<u8>>],
    ) -> Zeroizing<Vec<u8>> {
        let flag = |set: bool| if set { "1" } else { "0" };
        let mut fields = vec![
            path_field(Some(&self.live)),
            path_field(Some(&self.dir)),
            path_field(self.working_dir.as_deref()),
            flag(self.service).into(),
            flag(self.separate_output).into(),
            self.max_log_bytes.to_string().into(),
            self.free_disk_min.to_string().into(),
            self.timeout.map_or(String::new(), |timeout| timeout.as_micros().to_string()).into(),
            path_field(self.cgroup.as_deref()),
        ];

        fields.extend(self.confinement.encode());
        fields.push(argv.len().to_string().into());
        let strings = fields.iter().map(Vec::as_slice);
        let strings = strings
            .chain(argv.iter().map(|text| text.as_bytes()))
            .chain(env.iter().map(|text| text.as_slice()));

        // The exact size at once: a vector that grows would leave unwiped copies behind.
        let mut body =
            Zeroizing::new(Vec::with_capacity(strings.clone().map(|text| text.len() + 1).sum()));
        for text in strings {
            body.extend_from_slice(text);
            body.push(0);
        }

        body
    }
}

/// A decoded request; the strings for `execve` stay where they are.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// What to do.
    pub(crate) launch: Launch,
    /// The program and its arguments; not empty.
    pub(crate) argv: Vec<&'a CStr>,
    /// The environment.
    pub(crate) env: Vec<&'a CStr>,
}

impl<'a> Request<'a> {
    /// Reads a body; `None` if it is not one.
    pub(crate) fn decode(body: &'a [u8]) -> Option<Self> {
        let mut strings = body.split_inclusive(|&byte| byte == 0).map(CStr::from_bytes_with_nul);
        let mut next = || strings.next()?.ok();
        let path = |text: &CStr| PathBuf::from(OsString::from_vec(text.to_bytes().to_vec()));
        let optional = |text: &CStr| (!text.is_empty()).then(|| path(text));
        let live = path(next()?);
        let dir = path(next()?);
        let working_dir = optional(next()?);
        let service = next()? == c"1";
        let separate_output = next()? == c"1";
        let max_log_bytes = next()?.to_str().ok()?.parse().ok()?;
        let free_disk_min = next()?.to_str().ok()?.parse().ok()?;
        let timeout = match next()?.to_str().ok()? {
            "" => None,
            micros => Some(Duration::from_micros(micros.parse().ok()?)),
        };

        let cgroup = optional(next()?);
        let confinement = Confinement::decode(&mut next)?;
        let count: usize = next()?.to_str().ok()?.parse().ok()?;
        let rest: Vec<&CStr> = strings.collect::<Result<_, _>>().ok()?;
        let (argv, env) = rest.split_at_checked(count)?;
        if argv.is_empty() {
            return None;
        }

        let launch = Launch {
            live,
            dir,
            working_dir,
            service,
            separate_output,
            max_log_bytes,
            free_disk_min,
            timeout,
            cgroup,
            confinement,
        };

        Some(Self { launch, argv: argv.to_vec(), env: env.to_vec() })
    }
}

/// The sequence number of a request that makes the process that takes it a session instead of a
/// zygote; see [`crate::session`].
pub(crate) const SESSION: u64 = u64::MAX;

/// The header of a request.
pub(crate) fn request_header(sequence: u64, length: usize) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&sequence.to_le_bytes());
    header[8..].copy_from_slice(&(length as u64).to_le_bytes());
    header
}

/// The sequence number, the body's length, and the body unless it comes in a file.
pub(crate) fn parse_request_header(packet: &[u8]) -> Option<(u64, usize, &[u8])> {
    let (sequence, rest) = packet.split_first_chunk::<8>()?;
    let (length, first) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length))
        .ok()
        .filter(|&length| length <= MAX_BODY_BYTES)?;
    Some((u64::from_le_bytes(*sequence), length, first))
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The answer to a request without a body, which only asks whether the zygote is there.
    Pong,
    /// The process runs (or did).
    Running,
    /// It never ran; the exit record says why.
    Ended,
    /// Nothing was launched and nothing will be: the live entry is gone or taken, or the fork
    /// failed.
    Void,
}

/// A reply to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Which request.
    pub(crate) sequence: u64,
    /// What became of it.
    pub(crate) outcome: Outcome,
    /// The process id of who answers.
    pub(crate) pid: u32,
    /// When the process began to run, in microseconds since 1970; 0 for one that does not.
    pub(crate) started_at: i64,
}

/// Bytes of a reply.
pub(crate) const REPLY_BYTES: usize = 21;

impl Reply {
    pub(crate) fn encode(self) -> [u8; REPLY_BYTES] {
        let mut packet = [0; REPLY_BYTES];
        packet[..8].copy_from_slice(&self.sequence.to_le_bytes());
        packet[8] = match self.outcome {
            Outcome::Pong => 0,
            Outcome::Running => 1,
            Outcome::Ended => 2,
            Outcome::Void => 3,
        };
        packet[9..13].copy_from_slice(&self.pid.to_le_bytes());
        packet[13..].copy_from_slice(&self.started_at.to_le_bytes());
        packet
    }

    pub(crate) fn decode(packet: &[u8]) -> Option<Self> {
        let packet: &[u8; REPLY_BYTES] = packet.try_into().ok()?;
        let (sequence, rest) = packet.split_first_chunk::<8>()?;
        let outcome = match rest[0] {
            0 => Outcome::Pong,
            1 => Outcome::Running,
            2 => Outcome::Ended,
            3 => Outcome::Void,
            _ => return None,
        };
        let pid = u32::from_le_bytes(rest[1..5].try_into().ok()?);
        let started_at = i64::from_le_bytes(rest[5..].try_into().ok()?);
        Some(Self { sequence: u64::from_le_bytes(*sequence), outcome, pid, started_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(cgroup: Option<PathBuf>, working_dir: Option<PathBuf>) -> Launch {
        Launch {
            live: "/s/live/a~1".into(),
            dir: "/s/x/a".into(),
            working_dir,
            service: true,
            separate_output: true,
            max_log_bytes: 7,
            free_disk_min: 9,
            timeout: cgroup.is_some().then(|| Duration::from_millis(1_500)),
            cgroup,
            confinement: Confinement::default(),
        }
    }

    #[test]
    fn requests_round_trip() {
        for launch in [launch(None, None), launch(Some("/c/t".into()), Some("/w".into()))] {
            let body = launch.encode(
                &["sh".into(), String::new().into(), "a b".into()],
                &[Zeroizing::new(b"A=1".to_vec()), Zeroizing::new(b"B=\xff".to_vec())],
            );
            let request = Request::decode(&body).unwrap();
            assert_eq!(request.launch, launch);
            assert_eq!(request.argv, [c"sh", c"", c"a b"]);
            assert_eq!(request.env, [c"A=1", c"B=\xff"]);
        }
    }

    #[test]
    fn garbage_is_refused() {
        for body in [&b""[..], b"x", b"a\0b\0\0\0", b"l\0d\0\x001\x001\x007\0\0\0\0\0\x009\0sh\0"] {
            assert!(Request::decode(body).is_none(), "{body:?}");
        }
        assert!(parse_request_header(&request_header(1, MAX_BODY_BYTES + 1)).is_none());
        assert!(Reply::decode(&[9; REPLY_BYTES]).is_none());
    }

    #[test]
    fn replies_round_trip() {
        for outcome in [Outcome::Pong, Outcome::Running, Outcome::Ended, Outcome::Void] {
            let reply = Reply {
                sequence: u64::MAX - 1,
                outcome,
                pid: 4_000_000,
                started_at: 1_700_000_000_000_000,
            };
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
    }
}
