//! `/v1/client/allocation/:id/exec`: a command beside a task, over a websocket, as Nomad's raw_exec
//! driver does it. When the connection ends, only the command's own process is killed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::{SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::http::Call;
use super::{Inner, acl};

/// How long the caller may take to close a connection that is over.
const LEAVE: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<TokioIo<Upgraded>>;
type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Serves the connection once it speaks WebSocket.
pub(super) async fn serve(inner: Arc<Inner>, call: Call, upgrade: OnUpgrade) {
    let Ok(upgraded) = upgrade.await else { return };
    let mut socket =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let (code, reason) = match started(&inner, &call) {
        Ok(running) => match relay(&mut socket, running).await {
            Ok(()) => return,
            Err(error) => (CloseCode::Error, error.to_string()),
        },
        Err(refusal) => refusal,
    };
    let _ = socket.close(Some(CloseFrame { code, reason: reason.into() })).await;
}

/// A command that runs.
struct Running {
    child: tokio::process::Child,
    stdin: Option<Writer>,
    outputs: Vec<(&'static str, Reader)>,
    terminal: Option<File>,
}

fn started(inner: &Inner, call: &Call) -> Result<Running, (CloseCode, String)> {
    if !["alloc-exec", "alloc-node-exec"].iter().all(|right| acl::has(inner, call, right)) {
        return Err((CloseCode::Policy, "Permission denied".to_owned()));
    }
    if inner.happens(|faults| &mut faults.not_started) {
        return Err((CloseCode::Policy, "task \"main\" not started yet.".to_owned()));
    }
    let id = call.path.trim_start_matches("/v1/client/allocation/").trim_end_matches("/exec");
    let pid = inner.processes.lock().expect("the processes").get(id).copied();
    let Some(pid) = pid else {
        return Err((CloseCode::Policy, "task \"main\" is not running.".to_owned()));
    };
    let failed = |error: io::Error| (CloseCode::Error, format!("failed to start command: {error}"));
    let words: Vec<String> = serde_json::from_str(call.get("command")).expect("a list of words");
    begin(pid, &words, call.get("tty") == "true").map_err(failed)
}

fn begin(pid: i32, words: &[String], terminal: bool) -> io::Result<Running> {
    let environ = std::fs::read(format!("/proc/{pid}/environ"))?;
    let environ = String::from_utf8(environ).map_err(io::Error::other)?;
    let pairs = environ.split('\0').filter_map(|pair| pair.split_once('='));
    let mut command = if terminal { Command::new("setsid") } else { Command::new(&words[0]) };

    if terminal {
        command.arg("--ctty").args(words);
    } else {
        command.args(&words[1..]).process_group(pid);
    }

    command.env_clear().envs(pairs).current_dir(format!("/proc/{pid}/cwd")).kill_on_drop(true);
    if !terminal {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().map(|stdin| Box::new(stdin) as Writer);
        let out: Reader = Box::new(child.stdout.take().expect("a pipe"));
        let err: Reader = Box::new(child.stderr.take().expect("a pipe"));
        return Ok(Running {
            child,
            stdin,
            outputs: vec![("stdout", out), ("stderr", err)],
            terminal: None,
        });
    }

    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours).and_then(|()| unlockpt(&ours))?;
    let device = ptsname(&ours, Vec::new())?;
    let device =
        rustix::fs::open(&device, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    command.stdin(device.try_clone()?).stdout(device.try_clone()?).stderr(device.try_clone()?);

    let child = command.spawn()?;
    drop((command, device));
    let file = |end: &OwnedFd| -> io::Result<File> { Ok(File::from(end.try_clone()?)) };
    let stdin: Writer = Box::new(tokio::fs::File::from_std(file(&ours)?));
    let out: Reader = Box::new(tokio::fs::File::from_std(file(&ours)?));

    Ok(Running {
        child,
        stdin: Some(stdin),
        outputs: vec![("stdout", out)],
        terminal: Some(File::from(ours)),
    })
}

/// Moves bytes both ways until the command has ended, or the caller has gone, which drops and so
/// kills it.
async fn relay(socket: &mut Socket, running: Running) -> io::Result<()> {
    let Running { mut child, stdin, outputs, terminal } = running;
    let (said, mut saying) = mpsc::channel::<Value>(4);
    for (name, reader) in outputs {
        tokio::spawn(pump(name, reader, said.clone()));
    }

    drop(said);
    let (mut sink, mut stream) = socket.split();
    let answering = async {
        while let Some(message) = saying.recv().await {
            sink.send(Message::text(message.to_string())).await.map_err(io::Error::other)?;
        }

        let status = child.wait().await?;
        let code = status.code().unwrap_or_else(|| {
            128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0)
        });

        let message = json!({"exited": true, "result": {"exit_code": code}});
        sink.send(Message::text(message.to_string())).await.map_err(io::Error::other)?;
        sink.close().await.map_err(io::Error::other)
    };

    let outcome = tokio::select! {
        answered = answering => answered,
        listened = listen(&mut stream, stdin, terminal) => listened,
    };

    // A socket that is closed with something unread is reset, and what the other side has not read
    // yet is lost with it.
    let _ =
        tokio::time::timeout(LEAVE, async { while let Some(Ok(_)) = stream.next().await {} }).await;
    outcome
}

/// Goes on after the end of the input.
async fn listen(
    stream: &mut futures::stream::SplitStream<&mut Socket>,
    mut stdin: Option<Writer>,
    terminal: Option<File>,
) -> io::Result<()> {
    loop {
        let text = match stream.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
            Some(Ok(_)) => continue,
        };

        let message: Value = serde_json::from_str(&text).map_err(io::Error::other)?;
        if let (Some(data), Some(stdin)) = (message["stdin"]["data"].as_str(), stdin.as_mut()) {
            // A command that no longer reads is seen by its end.
            let _ = stdin.write_all(&BASE64.decode(data).map_err(io::Error::other)?).await;
            let _ = stdin.flush().await;
        }

        if message["stdin"]["close"] == true {
            stdin = None;
        }

        let side = |name: &str| {
            message["tty_size"][name].as_u64().and_then(|side| u16::try_from(side).ok())
        };

        if let (Some(rows), Some(columns), Some(terminal)) =
            (side("height"), side("width"), &terminal)
        {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            tcsetwinsize(terminal, size)?;
        }
    }
}

async fn pump(name: &'static str, mut reader: Reader, said: mpsc::Sender<Value>) {
    let mut buffer = vec![0; 4096];
    // A terminal that nobody has open gives an error.
    while let Ok(count @ 1..) = reader.read(&mut buffer).await {
        if said.send(json!({name: {"data": BASE64.encode(&buffer[..count])}})).await.is_err() {
            return;
        }
    }
    let _ = said.send(json!({name: {"close": true}})).await;
}
