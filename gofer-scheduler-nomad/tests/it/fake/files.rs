//! Logs and other files of an allocation, read through the agent.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Inner;
use super::http::{Call, Failure, Reply, once};
use super::state::text;

/// The largest piece of a stream.
const FRAME_BYTES: usize = 64 * 1024;
/// How often a file that is followed is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Looks between two signs of life.
const LOOKS_PER_HEARTBEAT: u32 = 50;

/// `GET /v1/client/fs/…`.
pub(super) fn route(
    inner: &Arc<Inner>,
    call: &Call,
    what: &str,
    id: &str,
) -> Result<Reply, Failure> {
    reachable(inner, id)?;
    let dir = inner.dir.join(id);
    if what == "logs" {
        return logs(inner, call, id, &dir);
    }

    let path = dir.join(call.get("path").trim_start_matches('/'));
    let missing =
        |error: io::Error| Failure::new(404, &format!("stat {}: {error}", path.display()));

    match what {
        "cat" => Ok(once(std::fs::read(&path).map_err(missing)?)),
        "readat" => {
            let bytes = std::fs::read(&path).map_err(missing)?;
            let number = |name: &str| call.get(name).parse::<usize>().ok();
            let from = number("offset").unwrap_or(0).min(bytes.len());
            let to = number("limit").map_or(bytes.len(), |limit| bytes.len().min(from + limit));
            Ok(once(bytes[from..to].to_vec()))
        }
        "stat" => {
            Ok(json!({"Name": call.get("path"), "IsDir": path.is_dir(), "Size": size(&path).map_err(missing)?}).into())
        }
        "ls" => {
            let entries = std::fs::read_dir(&path).map_err(missing)?;
            let entry = |entry: io::Result<std::fs::DirEntry>| {
                let path = entry.ok()?.path();
                let name = path.file_name()?.to_str()?.to_owned();
                Some(json!({"Name": name, "IsDir": path.is_dir(), "Size": size(&path).ok()?}))
            };
            Ok(json!(entries.filter_map(entry).collect::<Vec<_>>()).into())
        }
        "stream" => {
            size(&path).map_err(missing)?;
            let at = Position { index: 0, offset: call.get("offset").parse().unwrap_or(0) };
            Ok(read(move || vec![(0, path.clone())], at, call.flag("plain"), !call.flag("follow")))
        }
        _ => Err(Failure::new(404, &format!("the fake does not know fs/{what}"))),
    }
}

/// Whether the agent of an allocation can be asked.
pub(super) fn reachable(inner: &Inner, id: &str) -> Result<(), Failure> {
    if inner.happens(|faults| &mut faults.restoring) {
        return Err(Failure::new(404, &format!("Unknown allocation {id:?}")));
    }
    inner.read(|state| match state.allocs.get(id) {
        None => Err(Failure::new(404, &format!("Unknown allocation {id:?}"))),
        Some(alloc) if !state.reaches(&alloc.value) => Err(Failure::new(404, "No path to node")),
        Some(_) => Ok(()),
    })
}

fn logs(inner: &Inner, call: &Call, id: &str, dir: &Path) -> Result<Reply, Failure> {
    let (task, kind) = (call.get("task").to_owned(), call.get("type").to_owned());
    let started = inner.read(|state| {
        let task = state.allocs[id].value["TaskStates"].get(&task).cloned();
        task.map(|task| !text(&task["StartedAt"]).is_empty())
    });

    match started {
        Some(true) => {}
        Some(false) => {
            return Err(Failure::new(
                404,
                &format!("task {task:?} not started yet. No logs available"),
            ));
        }
        None => return Err(Failure::new(400, &format!("unknown task name {task:?}"))),
    }

    let base = dir.join("alloc/logs");
    let stem = format!("{task}.{kind}.");
    let files = move || {
        let entries = std::fs::read_dir(&base).into_iter().flatten().flatten();
        let numbered = entries.filter_map(|entry| {
            let index = entry.file_name().to_str()?.strip_prefix(&stem)?.parse().ok()?;
            Some((index, entry.path()))
        });
        let mut files: Vec<(u64, PathBuf)> = numbered.collect();
        files.sort();
        files
    };

    let offset = call.get("offset").parse().unwrap_or(0);
    let at = closest(&files(), offset, call.get("origin") == "end");
    let at = at.ok_or_else(|| {
        Failure::new(404, &format!("log entry for task {task:?} and log type {kind:?} not found"))
    })?;

    Ok(read(files, at, call.flag("plain"), !call.flag("follow")))
}

/// A place in a log: a file's number, and a place in that file.
#[derive(Clone, Copy)]
struct Position {
    index: u64,
    offset: u64,
}

/// Counts an offset over the files that are still there.
fn closest(files: &[(u64, PathBuf)], offset: u64, from_end: bool) -> Option<Position> {
    let sizes: Vec<u64> = files.iter().map(|(_, path)| size(path).unwrap_or(0)).collect();
    let total: u64 = sizes.iter().sum();
    let mut left = if from_end { total.saturating_sub(offset) } else { offset };
    for ((index, _), size) in files.iter().zip(&sizes) {
        if left <= *size {
            return Some(Position { index: *index, offset: left });
        }
        left -= size;
    }
    files.last().map(|(index, _)| Position { index: *index, offset: *sizes.last().unwrap_or(&0) })
}

/// Streams files one after the other from a place; to what is there now, or for ever.
fn read(
    files: impl Fn() -> Vec<(u64, PathBuf)> + Send + 'static,
    at: Position,
    plain: bool,
    once: bool,
) -> Reply {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(send(files, at, plain, once, sender));
    Reply::Stream(ReceiverStream::new(receiver).boxed())
}

async fn send(
    files: impl Fn() -> Vec<(u64, PathBuf)> + Send,
    mut at: Position,
    plain: bool,
    once: bool,
    sender: mpsc::Sender<io::Result<Bytes>>,
) {
    let mut quiet = 0;
    loop {
        let listed = files();
        let Some((index, path)) = listed.iter().find(|(index, _)| *index >= at.index) else {
            return;
        };

        if *index > at.index {
            at = Position { index: *index, offset: 0 };
        }

        let newer = listed.iter().any(|(index, _)| *index > at.index);
        let data = piece(path, at.offset);
        if !data.is_empty() {
            at.offset += data.len() as u64;
            quiet = 0;
            if sender.send(Ok(frame(path, at.offset, &data, plain))).await.is_err() {
                return;
            }
        } else if newer {
            at = Position { index: at.index + 1, offset: 0 };
        } else if once {
            return;
        } else {
            quiet += 1;
            if quiet % LOOKS_PER_HEARTBEAT == 0
                && !plain
                && sender.send(Ok(Bytes::from_static(b"{}"))).await.is_err()
            {
                return;
            }

            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

fn piece(path: &Path, offset: u64) -> Vec<u8> {
    let mut data = vec![0; FRAME_BYTES];
    let read = std::fs::File::open(path).and_then(|file| file.read_at(&mut data, offset));
    data.truncate(read.unwrap_or(0));
    data
}

fn frame(path: &Path, end: u64, data: &[u8], plain: bool) -> Bytes {
    if plain {
        return Bytes::copy_from_slice(data);
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let data = base64::engine::general_purpose::STANDARD.encode(data);
    Bytes::from(
        json!({"Offset": end, "Data": data, "File": format!("alloc/logs/{name}")}).to_string(),
    )
}

fn size(path: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(path)?.len())
}
