//! What `/proc` says about a process.

use std::fs;

use rustix::process::Pid;

/// Some fields of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    /// The process.
    pub(crate) pid: Pid,
    /// Its parent.
    pub(crate) parent: Pid,
    /// Its session.
    pub(crate) session: Option<Pid>,
    /// When it started, in hundredths of a second since boot.
    pub(crate) started: u64,
}

/// Reads them; `None` when there is no such process.
pub(crate) fn stat(pid: i32) -> Option<ProcessStat> {
    parse(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
}

/// Every process.
pub(crate) fn all() -> impl Iterator<Item = ProcessStat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?))
}

fn parse(text: &str) -> Option<ProcessStat> {
    let pid = Pid::from_raw(text.split(' ').next()?.parse().ok()?)?;
    // The name is in parentheses and may itself hold any character, so count from the last one.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split(' ').collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(ProcessStat {
        pid,
        parent: Pid::from_raw(field(4)?.parse().ok()?).unwrap_or(pid),
        session: Pid::from_raw(field(6)?.parse().ok()?),
        started: field(22)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything() {
        let text = "77 (a) b (c) S 12 77 70 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        let pid = |number| Pid::from_raw(number).unwrap();
        let expected =
            ProcessStat { pid: pid(77), parent: pid(12), session: Some(pid(70)), started: 987_654 };
        assert_eq!(parse(text), Some(expected));
    }

    #[test]
    fn finds_this_process() {
        let own = rustix::process::getpid();
        let stat = all().find(|stat| stat.pid == own).expect("this process");
        assert_eq!(Some(stat.parent), rustix::process::getppid());
    }
}
