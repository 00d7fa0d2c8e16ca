//! What the process keeps in memory without needing it: code that was used once, and an allocator's spare room.
//!
//! Reading a configuration, preparing TLS, loading a plugin and opening a connection touches code all over the
//! program, and the kernel maps the pages around each place along with it: some 24 MiB before the first byte, and
//! 15 more until a store has taken the first part, which a long transfer would carry from there to its last byte.
//! What a transfer does again for each part maps 12 MiB, most of it neighbours, and 7 to 8 where the code was cut.
//! Nothing here touches memory that anybody still uses.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(target_os = "linux")]
use std::{
    ops::Range,
    sync::{LazyLock, Mutex, PoisonError},
};

/// Where the program's code and constants are: they do not move.
#[cfg(target_os = "linux")]
static CODE: LazyLock<Vec<Range<usize>>> = LazyLock::new(|| {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return Vec::new() };
    let Ok(program) = std::env::current_exe() else { return Vec::new() };
    code_of(&maps, &program.to_string_lossy())
});

/// What of the code is mapped at a fault once it was cut, in bytes.
#[cfg(target_os = "linux")]
const PIECE_BYTES: usize = 16 << 10;

/// Unmaps the pages of the program's own code and constants. Those that are used again come back from
/// the page cache as they are needed, in neighbourhoods of 64 KiB, or pieces of 16 KiB beyond a GiB.
///
/// Called between the start of a run and its first byte, a few times while a long transfer is young, before and after
/// a segment of it is begun or completed, and around each renewal of a lease. Takes less than a millisecond. Does
/// nothing where the kernel does not tell what is mapped.
#[cfg(target_os = "linux")]
pub fn forget_code() {
    for code in CODE.iter() {
        advise(code, libc::MADV_DONTNEED);
    }
}

/// How many transfers need the code to be cut.
#[cfg(target_os = "linux")]
static CUTS: Mutex<usize> = Mutex::new(0);

/// While one of these is there, the program's code and constants are cut into mappings of 16 KiB.
///
/// A fault maps the neighbours of a page as well, up to 64 KiB or a whole folio of the page cache, but never beyond the
/// end of a mapping. Neighbouring mappings stay apart while they differ in something: every second one of these is left
/// out of a core dump, which holds nothing but the first page of a program's file anyway. Some 3,600 mappings cost 5 ms
/// to make, 0.8 MiB of the kernel's memory, and 1 to 3 ms for each program that is started, so they are joined again.
#[derive(Debug)]
struct Cut(());

#[cfg(target_os = "linux")]
impl Cut {
    fn begin() -> Self {
        let mut n = CUTS.lock().unwrap_or_else(PoisonError::into_inner);
        if *n == 0 {
            for code in CODE.iter() {
                let starts = (code.start + PIECE_BYTES..code.end).step_by(2 * PIECE_BYTES);
                let mut pieces = starts.map(|start| start..code.end.min(start + PIECE_BYTES));
                // A kernel that refuses one of them refuses all.
                pieces.all(|piece| advise(&piece, libc::MADV_DONTDUMP));
            }
        }
        *n += 1;
        Self(())
    }
}

#[cfg(target_os = "linux")]
impl Drop for Cut {
    fn drop(&mut self) {
        let mut n = CUTS.lock().unwrap_or_else(PoisonError::into_inner);
        *n -= 1;
        if *n == 0 {
            for code in CODE.iter() {
                advise(code, libc::MADV_DODUMP);
            }
        }
    }
}

/// Nothing is known of the pages elsewhere.
#[cfg(not(target_os = "linux"))]
pub fn forget_code() {}

/// The same.
#[cfg(not(target_os = "linux"))]
impl Cut {
    fn begin() -> Self {
        Self(())
    }
}

/// Does what is seldom done in the middle of a transfer whose buffers may all be full: its code comes instead of other
/// code that was needed seldom, and does not stay.
///
/// Forgets nothing in unit tests: thousands of renewals of a lease pass there in seconds, and each would take the code of
/// all other tests away.
pub async fn seldom<T>(work: impl Future<Output = T>) -> T {
    if cfg!(test) {
        return work.await;
    }
    forget_code();
    let done = work.await;
    forget_code();
    done
}

/// Where the program's code and constants are mapped: what can be executed and not be written, and the
/// beginning of its file. Other mappings that can only be read were written by relocations before.
#[cfg(target_os = "linux")]
fn code_of(maps: &str, program: &str) -> Vec<Range<usize>> {
    let range = |line: &str| {
        let mut fields = line.splitn(6, ' ');
        let (addresses, rights, offset) = (fields.next()?, fields.next()?, fields.next()?);
        let is_beginning = offset.bytes().all(|digit| digit == b'0');
        let is_written = !(rights == "r-xp" || (rights == "r--p" && is_beginning));
        if is_written || fields.nth(2)?.trim_start() != program {
            return None;
        }
        let (start, end) = addresses.split_once('-')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    };
    maps.lines().filter_map(range).collect()
}

/// Returns whether the kernel did so.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no safe interface takes pages of the program's own code")]
fn advise(code: &Range<usize>, advice: libc::c_int) -> bool {
    let start = std::ptr::with_exposed_provenance_mut::<libc::c_void>(code.start);
    // SAFETY: the range is a private mapping of the program's file that is never written (its rights say so, and
    // relocations change other mappings), so a page that is dropped is read again with the same bytes when it is
    // next used, by this thread or any other. What Rust allocates is not in it. Whether it is dumped changes no byte.
    let result = unsafe { libc::madvise(start, code.len(), advice) };
    if result != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "the kernel keeps the pages of the program");
    }
    result == 0
}

/// Gives the free pages in the middle of the allocator's heaps back to the system: those that a start leaves behind.
///
/// Called when a plugin has started, so before the first byte of a run. Takes less than a millisecond.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "no safe interface asks glibc for its free pages")]
pub fn forget_free_memory() {
    // SAFETY: `malloc_trim` takes a number and gives back pages of memory that nobody has allocated.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators have their own ways.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn forget_free_memory() {}

/// A transfer of this many frames is a long one. Each so many more, while its buffers fill and each of its connections
/// is opened, the code that nobody uses any more is given back; later at each doubling.
const FRAMES_BEFORE_FORGETTING: u64 = 8;
/// By then everything that a transfer needs has run.
const FRAMES_OF_YOUTH: u64 = 64;
/// From here on, 1 GiB, what code is cut for is no longer a matter of a moment: segments end, leases are renewed.
const FRAMES_BEFORE_CUTTING: u64 = 512;

/// Keeps the code of a transfer small, from frame to frame: often while it is young, and all of it when it is old, until
/// this is dropped.
#[derive(Debug, Default)]
pub struct Age {
    n_frames: AtomicU64,
    cut: OnceLock<Cut>,
}

impl Age {
    /// One more frame was read or handed out.
    pub fn frame(&self) {
        let n_frames = self.n_frames.fetch_add(1, Ordering::Relaxed) + 1;
        if n_frames == FRAMES_BEFORE_CUTTING {
            self.cut.get_or_init(Cut::begin);
        }
        if is_time_to_forget(n_frames) {
            forget_code();
        }
    }
}

fn is_time_to_forget(n_frames: u64) -> bool {
    match n_frames {
        ..=FRAMES_OF_YOUTH => n_frames.is_multiple_of(FRAMES_BEFORE_FORGETTING),
        _ => n_frames.is_power_of_two(),
    }
}

/// Lets threads share as many heaps as there are cores, instead of the eight for each core that glibc makes. Threads
/// that only wait leave half-empty heaps behind, and none of ours allocates much while bytes move.
///
/// Called first, while there is one thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "no safe interface limits the heaps of glibc, and its environment variable comes too late"
)]
pub fn share_heaps() {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    // SAFETY: `mallopt` takes two numbers and changes a limit of the allocator; the pages that it has stay its own.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, i32::try_from(cores).unwrap_or(i32::MAX)) };
}

/// Other allocators have their own ways.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn share_heaps() {}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_and_constants_of_the_program_itself_are_taken() {
        let maps = "\
            55d0-55d8 r--p 00000000 00:1f 42      /opt/a b/strongroom\n\
            55d8-55e0 r-xp 00008000 00:1f 42      /opt/a b/strongroom\n\
            55e0-55e8 r--p 00010000 00:1f 42      /opt/a b/strongroom\n\
            55e0-55e8 rw-p 00010000 00:1f 42      /opt/a b/strongroom\n\
            55e8-55f0 rwxp 00010000 00:1f 42      /opt/a b/strongroom\n\
            7000-7008 r-xp 00000000 00:1f 43      /usr/lib/libc.so.6\n\
            7008-7010 r-xp 00000000 00:00 0 \n\
            7010-7018 r-xp 00000000 00:1f 44      /opt/a b/strongroom (deleted)\n\
            broken\n";
        assert_eq!(code_of(maps, "/opt/a b/strongroom"), [0x55d0..0x55d8, 0x55d8..0x55e0]);
    }

    #[test]
    fn code_is_forgotten_often_while_a_transfer_is_young_and_seldom_later() {
        let times: Vec<u64> = (1..=1024).filter(|n| is_time_to_forget(*n)).collect();
        assert_eq!(times, [8, 16, 24, 32, 40, 48, 56, 64, 128, 256, 512, 1024]);
    }

    /// KiB of the program's own code that are mapped.
    fn resident() -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let program = std::env::current_exe().unwrap();
        let (mut is_code, mut kib) = (false, 0);
        for line in smaps.lines() {
            if let Some(rss) = line.strip_prefix("Rss:") {
                let rss: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
                kib += if is_code { rss } else { 0 };
            } else if line.split(' ').nth(1).is_some_and(|rights| rights.len() == 4) {
                is_code = line.contains(" r-xp ") && line.ends_with(&*program.to_string_lossy());
            }
        }
        kib
    }

    /// In a process of its own: tests beside this one would map code again between the drop and the look at it.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test runs itself again, and tells itself so by a variable")]
    fn code_that_was_dropped_runs_on() {
        const ALONE: &str = "STRONGROOM_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let alone = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "footprint::tests::code_that_was_dropped_runs_on", "--nocapture"])
                .env(ALONE, "1")
                .output()
                .unwrap();
            let said = [alone.stdout, alone.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(alone.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let populate = || assert!(CODE.iter().all(|code| advise(code, libc::MADV_POPULATE_READ)));
        populate();
        let before = resident();
        forget_code();
        let after = resident();
        assert!(after < before / 2, "{before} KiB were mapped, and {after} KiB are");
        let threads: Vec<_> = (0..4).map(|n| std::thread::spawn(move || format!("{n}").repeat(1000))).collect();
        for thread in threads {
            forget_code();
            assert_eq!(thread.join().unwrap().len(), 1000);
        }
        // The same where it was cut: no mapping of it is larger than a piece, and none is lost.
        let mapped = || {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            code_of(&maps, &std::env::current_exe().unwrap().to_string_lossy())
        };
        let largest = CODE.iter().map(Range::len).max().unwrap();
        let (long, longer) = (Age::default(), Age::default());
        (1..FRAMES_BEFORE_CUTTING).for_each(|_| long.frame());
        assert_eq!(mapped(), *CODE);
        long.frame();
        (0..FRAMES_BEFORE_CUTTING).for_each(|_| longer.frame());
        let pieces = mapped();
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES), "{pieces:x?}");
        assert!(pieces.iter().map(Range::len).sum::<usize>() >= largest, "{pieces:x?}");
        populate();
        forget_code();
        assert!(resident() < before / 2, "{before} KiB were mapped, and {} KiB are", resident());
        // Joined when the last of them ends.
        drop(long);
        assert_eq!(mapped(), pieces);
        drop(longer);
        assert_eq!(mapped(), *CODE);
    }
}
