//! A terminal, as a person's window is one.

use std::fs::File;
use std::io::{PipeWriter, Read as _, Write as _, pipe};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::serving::SOON;

/// A terminal as a person's window is one.
pub(crate) struct Terminal {
    window: File,
    device: OwnedFd,
    pieces: mpsc::Receiver<Vec<u8>>,
    /// Keeps the reader of the window until it is closed.
    reading: Option<(PipeWriter, JoinHandle<()>)>,
    pub(crate) seen: String,
}

impl Drop for Terminal {
    /// Closes the window.
    fn drop(&mut self) {
        if let Some((wanted, reader)) = self.reading.take() {
            drop(wanted);
            reader.join().expect("the reader ends");
        }
    }
}

impl Terminal {
    pub(crate) fn open(rows: u16, columns: u16) -> Self {
        let window = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a terminal");
        grantpt(&window).and_then(|()| unlockpt(&window)).expect("a terminal");
        let path = ptsname(&window, Vec::new()).expect("its name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let device = rustix::fs::open(&path, flags, Mode::empty()).expect("its device");
        let window = File::from(window);
        let (sender, pieces) = mpsc::channel();
        let mut reader = window.try_clone().expect("another descriptor");
        let (closed, wanted) = pipe().expect("a pipe");
        let reading = std::thread::Builder::new().name("window".to_owned()).spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let mut fds =
                    [PollFd::new(&reader, PollFlags::IN), PollFd::new(&closed, PollFlags::IN)];
                poll(&mut fds, None).expect("descriptors");
                if !fds[1].revents().is_empty() {
                    return;
                }

                let Ok(count @ 1..) = reader.read(&mut buffer) else { return };
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });

        let reading = Some((wanted, reading.expect("a thread")));
        let terminal = Self { window, device, pieces, reading, seen: String::new() };
        terminal.resize(rows, columns);

        terminal
    }

    /// Starts a command at this terminal, which is the command's own.
    pub(crate) fn run(&self, command: &Command) -> Child {
        let mut at_terminal = Command::new("setsid");
        at_terminal.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => at_terminal.env(name, value),
                None => at_terminal.env_remove(name),
            };
        }

        let device = || self.device.try_clone().expect("another descriptor");
        at_terminal
            .stdin(device())
            .stdout(device())
            .stderr(device())
            .spawn()
            .expect("setsid is there")
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.window.write_all(text.as_bytes()).expect("the terminal takes it");
    }

    /// Reads until the text is there.
    pub(crate) fn reads(&mut self, text: &str) {
        let until = Instant::now() + SOON;
        while !self.seen.contains(text) {
            match self.pieces.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!("`{text}` was not shown within {SOON:?}: {:?}", self.seen),
            }
        }
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.window, size).expect("a size");
    }

    /// Whether it is in the mode that a shell leaves it in: what is typed is shown, and read by
    /// lines.
    pub(crate) fn shows_what_is_typed(&self) -> bool {
        let modes = tcgetattr(&self.device).expect("the modes").local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }
}
