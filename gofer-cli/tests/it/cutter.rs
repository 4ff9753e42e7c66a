//! A proxy that cuts the first connection after a number of HTTP/2 frames of the server, and lets
//! the others be.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Length, type, flags and stream of a frame.
const HEADER_BYTES: usize = 9;
/// The type of the frame that begins, and that ends, an answer.
const HEADERS: u8 = 1;

/// Where to cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// So many frames of the server arrive whole.
    pub(crate) frames: usize,
    /// And the half of another one.
    pub(crate) half: bool,
    /// The connection stays, but nothing more comes.
    pub(crate) stalls: bool,
}

impl Cut {
    /// Nowhere.
    pub(crate) const NEVER: Self = Self { frames: usize::MAX, half: false, stalls: false };

    /// After so many frames.
    pub(crate) fn after(frames: usize) -> Self {
        Self { frames, ..Self::NEVER }
    }
}

/// The proxy.
pub(crate) struct Cutter {
    pub(crate) addr: String,
    listen: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    ended: AtomicBool,
    connections: AtomicUsize,
    frames: AtomicUsize,
    headers: AtomicUsize,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Cutter {
    /// In front of this address, such as `http://127.0.0.1:1`.
    pub(crate) fn to(target: &str, cut: Cut) -> Self {
        let target: SocketAddr = target.trim_start_matches("http://").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let listen = listener.local_addr().expect("an address");
        let state = Arc::new(State::default());
        let accepting = spawn("accepting", {
            let state = state.clone();
            move || accept(&listener, target, cut, &state)
        });
        Self { addr: format!("http://{listen}"), listen, state, accepting: Some(accepting) }
    }

    /// Cuts every connection now.
    pub(crate) fn cut(&self) {
        for socket in self.state.sockets.lock().expect("sockets").drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Frames of the server on the first connection that arrived whole.
    pub(crate) fn frames(&self) -> usize {
        self.state.frames.load(Ordering::SeqCst)
    }

    /// Those of them that begin or end an answer.
    pub(crate) fn headers(&self) -> usize {
        self.state.headers.load(Ordering::SeqCst)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        // Wakes the one who accepts.
        drop(TcpStream::connect(self.listen));
        self.cut();
        self.accepting.take().expect("it was started").join().expect("it ends");
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).expect("a thread")
}

fn accept(listener: &TcpListener, target: SocketAddr, cut: Cut, state: &Arc<State>) {
    while let Ok((client, _)) = listener.accept() {
        if state.ended.load(Ordering::SeqCst) {
            return;
        }

        // Refused: so is the client, who sees its connection end.
        let Ok(server) = TcpStream::connect(target) else { continue };
        let is_first = state.connections.fetch_add(1, Ordering::SeqCst) == 0;
        let copies =
            [&client, &server].map(|socket| socket.try_clone().expect("another descriptor"));
        state.sockets.lock().expect("sockets").extend(copies);

        let [mut to_server, mut from_client] =
            [&server, &client].map(|end| end.try_clone().expect("a descriptor"));
        spawn("to the server", move || {
            let _ = std::io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
        });

        let (state, cut) = (state.clone(), if is_first { cut } else { Cut::NEVER });
        spawn("to the client", move || {
            let _ = pass_frames(&server, &client, cut, is_first.then_some(&*state));
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        });
    }
}

fn pass_frames(
    mut server: &TcpStream,
    mut client: &TcpStream,
    cut: Cut,
    state: Option<&State>,
) -> std::io::Result<()> {
    for _ in 0..cut.frames {
        let (frame, kind) = read_frame(&mut server)?;
        client.write_all(&frame)?;
        if let Some(state) = state {
            state.frames.fetch_add(1, Ordering::SeqCst);
            state.headers.fetch_add(usize::from(kind == HEADERS), Ordering::SeqCst);
        }
    }

    if cut.stalls {
        std::io::copy(&mut server, &mut std::io::sink())?;
    }

    if cut.half {
        let (frame, _) = read_frame(&mut server)?;
        client.write_all(&frame[..frame.len() / 2])?;
    }

    Ok(())
}

fn read_frame(server: &mut &TcpStream) -> std::io::Result<(Vec<u8>, u8)> {
    let mut frame = vec![0; HEADER_BYTES];
    server.read_exact(&mut frame)?;
    let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
    frame.resize(HEADER_BYTES + length, 0);
    server.read_exact(&mut frame[HEADER_BYTES..])?;
    let kind = frame[3];
    Ok((frame, kind))
}
