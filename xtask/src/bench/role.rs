//! The programs at both ends of what is measured: a producer and a consumer that cost next to nothing and say
//! what they cost. They are this binary under another name, so that there is nothing else to install.

use super::input::Input;
use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes that a producer writes and a consumer reads at once, as `cat` does.
const COPY_BYTES: usize = 128 << 10;

/// What a role says about itself when it is done: a line of three numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Said {
    /// When it began, in seconds since 1970.
    pub began: f64,
    /// CPU time that it used, in seconds.
    pub cpu_seconds: f64,
    /// Bytes that it moved.
    pub bytes: u64,
}

impl Said {
    /// Every line of a log; one that is missing means that nobody took the role.
    pub fn read(log: &Path) -> Result<Vec<Self>> {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let parse = |line: &str| {
            let mut words = line.split(' ');
            Some(Self {
                began: words.next()?.parse().ok()?,
                cpu_seconds: words.next()?.parse().ok()?,
                bytes: words.next()?.parse().ok()?,
            })
        };
        text.lines().map(|line| parse(line).with_context(|| format!("not a line of a log: {line}"))).collect()
    }

    fn append(&self, log: &str) -> Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(log)?;
        Ok(file.write_all(format!("{} {} {}\n", self.began, self.cpu_seconds, self.bytes).as_bytes())?)
    }
}

/// Takes the role that the arguments name, if they name one:
///
/// - `produce FILE BYTES LOG`: writes so many bytes to standard output, the file again and again;
/// - `consume LOG`: reads standard input to its end;
/// - `generate INPUT BYTES FILE`: makes an input.
pub fn take(arguments: &[String]) -> Result<bool> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["produce", file, bytes, log] => produce(file, bytes.parse()?, log)?,
        ["consume", log] => consume(log)?,
        ["generate", input, bytes, file] => {
            let Some(input) = Input::parse(input) else { bail!("there is no input \"{input}\"") };
            let mut out = BufWriter::with_capacity(1 << 20, File::create(file)?);
            input.write(bytes.parse()?, &mut out)?;
            out.flush()?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn produce(file: &str, bytes: u64, log: &str) -> Result<()> {
    let began = now()?;
    let mut file = File::open(file).with_context(|| format!("could not open {file}"))?;
    let mut out = std::io::stdout().lock();
    let mut buffer = vec![0; COPY_BYTES];
    let mut left = bytes;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(COPY_BYTES);
        let n = file.read(&mut buffer[..most])?;
        if n == 0 {
            if file.stream_position()? == 0 {
                bail!("the file to produce is empty");
            }
            file.seek(SeekFrom::Start(0))?;
            continue;
        }
        // Standard output of Rust is buffered by lines; pieces as large as these pass it by.
        out.write_all(&buffer[..n])?;
        left -= u64::try_from(n)?;
    }
    out.flush()?;
    Said { began, cpu_seconds: cpu_seconds(), bytes }.append(log)
}

fn consume(log: &str) -> Result<()> {
    let began = now()?;
    let mut input = std::io::stdin().lock();
    let mut buffer = vec![0; COPY_BYTES];
    let mut bytes = 0;
    loop {
        let n = input.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        bytes += u64::try_from(n)?;
    }
    Said { began, cpu_seconds: cpu_seconds(), bytes }.append(log)
}

/// Seconds since 1970: the only clock that two processes share by name.
pub fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs_f64())
}

/// CPU time of this process so far, in seconds.
fn cpu_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    // Seconds and nanoseconds of a process are far below 2^53.
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_roles_said_is_read_in_order_and_nonsense_is_refused() {
        let log = std::env::temp_dir().join(format!("strongroom-role-{}", std::process::id()));
        assert_eq!(Said::read(&log).unwrap(), []);
        let first = Said { began: 1.5, cpu_seconds: 0.25, bytes: 7 };
        first.append(log.to_str().unwrap()).unwrap();
        Said { bytes: 8, ..first }.append(log.to_str().unwrap()).unwrap();
        assert_eq!(Said::read(&log).unwrap(), [first, Said { bytes: 8, ..first }]);
        std::fs::write(&log, "nonsense\n").unwrap();
        assert!(Said::read(&log).unwrap_err().to_string().contains("nonsense"));
        std::fs::remove_file(&log).unwrap();
    }
}
