//! What the server and a session's process say to each other once the process is one: a packet
//! each, a tag and its data. Packets wait in the socket until they are taken, so neither side holds
//! more than one.

use std::ffi::{CStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use gofer_core::exec::{ExecInput, ExecOutput, MAX_EXEC_CHUNK_BYTES, TerminalSize};
use rustix::process::Pid;

use crate::confinement::{Confinement, path_field};
use crate::live::StartedTask;

/// Longest packet: a tag and a piece.
pub(crate) const PACKET_BYTES: usize = 1 + MAX_EXEC_CHUNK_BYTES;

/// What a session's process needs to know. The environment and the directory it takes from the
/// task's own process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    /// The task's process.
    pub(crate) task: StartedTask,
    /// The cgroup to run in.
    pub(crate) cgroup: Option<PathBuf>,
    /// The task's working directory, which its sessions share.
    pub(crate) work: PathBuf,
    /// What binds the task.
    pub(crate) confinement: Confinement,
    /// The terminal's size; `None` is pipes.
    pub(crate) terminal: Option<TerminalSize>,
}

impl Begin {
    /// The body of a request: strings, each ended by a NUL byte, as those of a launch.
    pub(crate) fn encode(&self, command: &[String]) -> Vec<u8> {
        let (rows, columns) = self.terminal.map_or((0, 0), |size| (size.rows, size.columns));
        let mut fields = vec![
            self.task.pid.as_raw_nonzero().to_string().into_bytes(),
            self.task.earliest.to_string().into(),
            self.task.latest.to_string().into(),
            path_field(self.cgroup.as_deref()),
            path_field(Some(&self.work)),
            rows.to_string().into(),
            columns.to_string().into(),
        ];
        fields.extend(self.confinement.encode());
        let strings = fields.iter().map(Vec::as_slice).chain(command.iter().map(String::as_bytes));
        strings.flat_map(|text| [text, b"\0"].concat()).collect()
    }

    /// Reads a body, with the command in it; `None` if it is not one.
    pub(crate) fn decode(body: &[u8]) -> Option<(Self, Vec<&CStr>)> {
        let mut strings = body.split_inclusive(|&byte| byte == 0).map(CStr::from_bytes_with_nul);
        let mut next = || strings.next()?.ok();
        let mut number = || next()?.to_str().ok()?.parse::<u64>().ok();
        let pid = Pid::from_raw(i32::try_from(number()?).ok()?)?;
        let (earliest, latest) = (number()?, number()?);
        let path = |text: &CStr| {
            (!text.is_empty()).then(|| PathBuf::from(OsString::from_vec(text.to_bytes().to_vec())))
        };

        let (cgroup, work) = (path(next()?), path(next()?)?);
        let mut size = || next()?.to_str().ok()?.parse::<u16>().ok();
        let (rows, columns) = (size()?, size()?);
        let confinement = Confinement::decode(&mut next)?;
        let command: Vec<&CStr> = strings.collect::<Result<_, _>>().ok()?;
        let begin = Self {
            task: StartedTask { pid, earliest, latest, at: None },
            cgroup,
            work,
            confinement,
            terminal: (rows > 0 && columns > 0).then_some(TerminalSize { rows, columns }),
        };

        (!command.is_empty()).then_some((begin, command))
    }
}

/// From the session's process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The command runs; the first packet, if it does.
    Began,
    /// The command does not run, and why; then nothing more comes.
    Refused(String),
    /// What the command writes, or its end, after which nothing more comes.
    Output(ExecOutput),
}

impl Said {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Began => packet(b'S', b""),
            Self::Refused(why) => {
                packet(b'F', &why.as_bytes()[..why.floor_char_boundary(MAX_EXEC_CHUNK_BYTES)])
            }
            Self::Output(ExecOutput::Stdout(data)) => packet(b'O', data),
            Self::Output(ExecOutput::Stderr(data)) => packet(b'E', data),
            Self::Output(ExecOutput::Exited(code)) => packet(b'X', &code.to_le_bytes()),
        }
    }

    pub(crate) fn decode(packet: &[u8]) -> Option<Self> {
        let (tag, data) = packet.split_first()?;
        match tag {
            b'S' => Some(Self::Began),
            b'F' => Some(Self::Refused(String::from_utf8_lossy(data).into_owned())),
            b'O' => Some(Self::Output(ExecOutput::Stdout(data.to_vec().into()))),
            b'E' => Some(Self::Output(ExecOutput::Stderr(data.to_vec().into()))),
            b'X' => {
                Some(Self::Output(ExecOutput::Exited(i32::from_le_bytes(data.try_into().ok()?))))
            }
            _ => None,
        }
    }
}

/// A piece of input as a packet.
pub(crate) fn encode_input(input: &ExecInput) -> Vec<u8> {
    match input {
        ExecInput::Stdin(data) => packet(b'I', data),
        ExecInput::StdinEnd => packet(b'Z', b""),
        ExecInput::Resize(TerminalSize { rows, columns }) => {
            packet(b'R', &[rows.to_le_bytes(), columns.to_le_bytes()].concat())
        }
    }
}

/// A packet as a piece of input.
pub(crate) fn decode_input(packet: &[u8]) -> Option<ExecInput> {
    let (tag, data) = packet.split_first()?;
    match (tag, data) {
        (b'I', data) => Some(ExecInput::Stdin(data.to_vec().into())),
        (b'Z', []) => Some(ExecInput::StdinEnd),
        (b'R', &[a, b, c, d]) => {
            let (rows, columns) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
            Some(ExecInput::Resize(TerminalSize { rows, columns }))
        }
        _ => None,
    }
}

fn packet(tag: u8, data: &[u8]) -> Vec<u8> {
    [&[tag], data].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_round_trips() {
        let task =
            StartedTask { pid: Pid::from_raw(77).unwrap(), earliest: 5, latest: 6, at: None };
        let cgroup = PathBuf::from("/c/t");
        let terminal = TerminalSize { rows: 24, columns: 80 };

        for (cgroup, terminal) in [(None, None), (Some(cgroup), Some(terminal))] {
            let begin = Begin {
                task,
                cgroup,
                work: "/x/work".into(),
                confinement: Confinement::default(),
                terminal,
            };

            let body = begin.encode(&["sh".to_owned(), String::new()]);
            assert_eq!(Begin::decode(&body), Some((begin, vec![c"sh", c""])));
        }

        assert_eq!(
            Begin::decode(b"77\x005\x006\0\0/w\x000\x000\0\0\0\0"),
            None,
            "there is no command"
        );

        for said in [
            Said::Began,
            Said::Refused("why".into()),
            Said::Output(ExecOutput::Stdout("o".into())),
            Said::Output(ExecOutput::Stderr("e".into())),
            Said::Output(ExecOutput::Exited(-1)),
        ] {
            assert_eq!(Said::decode(&said.encode()), Some(said));
        }

        for input in
            [ExecInput::Stdin("i".into()), ExecInput::StdinEnd, ExecInput::Resize(terminal)]
        {
            assert_eq!(decode_input(&encode_input(&input)), Some(input));
        }
    }
}
