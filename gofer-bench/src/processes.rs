//! The processes of the measured binary, with their use of memory and processor: the server and all
//! its helpers, even detached ones.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::machine::{field, kib};

/// Memory and processor time of one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    pid: i32,
    /// Memory that is in use by it, shared pages included, in MiB.
    pub(crate) rss_mib: f64,
    /// The same with each shared page divided among its processes, in MiB.
    pub(crate) pss_mib: f64,
    /// Processor time of it and of the children it has waited for, in milliseconds.
    pub(crate) cpu_ms: f64,
}

/// Memory of one process, in MiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Its use now.
    pub(crate) now_mib: f64,
    /// The most it has used since [`forget_peak`].
    pub(crate) peak_mib: f64,
}

/// The memory that a process uses, and has used at most.
pub(crate) fn memory(pid: i32) -> Result<Memory> {
    let mib = |name| {
        let kib = field(format!("/proc/{pid}/status"), name).and_then(|text| kib(&text));
        kib.map(|kib| kib as f64 / 1024.0).with_context(|| format!("process {pid} has no `{name}`"))
    };
    Ok(Memory { now_mib: mib("VmRSS")?, peak_mib: mib("VmHWM")? })
}

/// From now on the peak is the most it uses after this.
pub(crate) fn forget_peak(pid: i32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot reset the peak of a process")
}

/// Every process that executes this file.
pub(crate) fn of(binary: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A process may end at any moment; then it is none of them.
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == binary))
        .filter_map(look)
        .collect()
}

/// Processor time of all of them, in milliseconds.
pub(crate) fn cpu_ms(binary: &Path) -> f64 {
    of(binary).iter().map(|process| process.cpu_ms).sum()
}

/// Ends all of them at once.
pub(crate) fn kill_all(binary: &Path) {
    for process in of(binary) {
        if let Some(pid) = Pid::from_raw(process.pid) {
            // It may have ended already.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn look(pid: i32) -> Option<Process> {
    let mib = |name| Some(kib(&field(format!("/proc/{pid}/smaps_rollup"), name)?)? as f64 / 1024.0);
    Some(Process { pid, rss_mib: mib("Rss")?, pss_mib: mib("Pss")?, cpu_ms: cpu_time_ms(pid)? })
}

/// Fields 14 to 17 of `stat`: user and system time of the process, and of its children, in ticks.
fn cpu_time_ms(pid: i32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 =
        fields.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(ticks as f64 * 1000.0 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_peak_is_not_below_what_is_used_now() {
        let pid = std::process::id().cast_signed();
        super::forget_peak(pid).unwrap();
        let memory = super::memory(pid).unwrap();
        assert!(memory.now_mib > 0.1 && memory.peak_mib > 0.1, "{memory:?}");
        assert!(super::memory(0).is_err());
    }

    #[test]
    fn this_process_is_found_by_its_file() {
        let exe = std::env::current_exe().unwrap().canonicalize().unwrap();
        let processes = super::of(&exe);
        let this = processes
            .iter()
            .find(|process| process.pid == std::process::id().cast_signed())
            .unwrap();
        assert!(this.rss_mib > 0.1 && this.pss_mib <= this.rss_mib, "{this:?}");
    }
}
