//! `wordcount [--top N] [FILE]...`

use std::env;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::process::ExitCode;

use wordcount::{Counts, Frequencies, count};

const USAGE: &str = "usage: wordcount [--top N] [FILE]...\n\
    Counts lines, words and bytes; without FILE, or for `-`, of standard input.";

#[derive(Debug, Default, PartialEq, Eq)]
struct Args {
    top: usize,
    files: Vec<String>,
}

fn main() -> ExitCode {
    let args = match parse(env::args().skip(1)) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("wordcount: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("wordcount: cannot write: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: impl IntoIterator<Item = String>) -> Result<Args, String> {
    let mut parsed = Args::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--top" => {
                let value = args.next().ok_or("`--top` needs a number")?;
                parsed.top = value.parse().map_err(|_| format!("`--top` needs a number, not `{value}`"))?;
            }
            option if option.starts_with("--") => return Err(format!("unknown option `{option}`")),
            _ => parsed.files.push(arg),
        }
    }

    if parsed.files.is_empty() {
        parsed.files.push("-".to_owned());
    }

    Ok(parsed)
}

/// Whether every file could be read; one that cannot is reported and does not stop the others.
fn run(args: &Args) -> io::Result<bool> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut frequencies = Frequencies::default();
    let mut total = Counts::default();
    let mut all_read = true;

    for file in &args.files {
        match count_file(file, &mut frequencies) {
            Ok(counts) => {
                print(&mut out, counts, file)?;
                total += counts;
            }
            Err(error) => {
                eprintln!("wordcount: cannot read `{file}`: {error}");
                all_read = false;
            }
        }
    }

    if args.files.len() > 1 {
        print(&mut out, total, "total")?;
    }

    for (word, count) in frequencies.top(args.top) {
        writeln!(out, "{count:>8} {word}")?;
    }

    out.flush()?;
    Ok(all_read)
}

fn count_file(file: &str, frequencies: &mut Frequencies) -> io::Result<Counts> {
    if file == "-" {
        count(io::stdin().lock(), frequencies)
    } else {
        count(BufReader::new(File::open(file)?), frequencies)
    }
}

fn print(out: &mut impl Write, counts: Counts, name: &str) -> io::Result<()> {
    let Counts { lines, words, bytes } = counts;
    writeln!(out, "{lines:>8} {words:>8} {bytes:>8} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Args, String> {
        parse(args.iter().map(|&arg| arg.to_owned()))
    }

    #[test]
    fn without_files_it_reads_standard_input() {
        assert_eq!(parsed(&["--top", "3"]), Ok(Args { top: 3, files: vec!["-".to_owned()] }));
    }

    #[test]
    fn wrong_use_is_named() {
        assert_eq!(parsed(&["--top"]), Err("`--top` needs a number".to_owned()));
        assert_eq!(parsed(&["--top", "x"]), Err("`--top` needs a number, not `x`".to_owned()));
        assert_eq!(parsed(&["--bottom"]), Err("unknown option `--bottom`".to_owned()));
    }
}
