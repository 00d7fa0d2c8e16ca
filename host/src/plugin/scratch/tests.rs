//! Every function of `wasi:filesystem` against the account and the borders of the directory.

use super::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::os::unix::fs::symlink;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, HostDescriptor, HostDirectoryEntryStream, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynOutputStream, FsError, StreamError};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

const KIB: u64 = 1 << 10;
const RW: [DescriptorFlags; 2] = [DescriptorFlags::READ, DescriptorFlags::WRITE];

/// A guest that makes every call itself.
struct Guest {
    wasi: WasiCtx,
    table: ResourceTable,
    scratch: Scratch,
    /// The directory above it, with a secret in it.
    outside: tempfile::TempDir,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Guest {
    fn new(bytes: u64, files: u64) -> Self {
        Self::with(Most { bytes, files, open: 32 })
    }

    fn with(most: Most) -> Self {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "canary").unwrap();
        std::fs::create_dir(outside.path().join("private")).unwrap();
        let dir = outside.path().join("scratch");
        std::fs::create_dir(&dir).unwrap();
        let scratch = Scratch::make(&dir, most, &Counter::new(8), None);
        let mut wasi = WasiCtxBuilder::new();
        wasi.preopened_dir(&dir, GUEST_PATH, FsPerms::ReadWrite).unwrap();
        Self { wasi: wasi.build(), table: ResourceTable::new(), scratch, outside }
    }

    fn files(&mut self) -> Files<'_> {
        let scratch = Some(self.scratch.clone());
        Files::new(self.filesystem(), scratch)
    }

    fn host(&self, name: &str) -> PathBuf {
        self.scratch.dir().join(name)
    }

    fn root(&mut self) -> Resource<Descriptor> {
        let mut all = self.files().get_directories().unwrap();
        assert_eq!((all.len(), all[0].1.as_str()), (1, GUEST_PATH));
        all.remove(0).0
    }

    async fn open(&mut self, path: &str, how: &[OpenFlags]) -> Result<Resource<Descriptor>, ErrorCode> {
        self.open_for(path, how, &RW).await
    }

    async fn open_for(
        &mut self,
        path: &str,
        how: &[OpenFlags],
        flags: &[DescriptorFlags],
    ) -> Result<Resource<Descriptor>, ErrorCode> {
        let root = self.root();
        let how = how.iter().fold(OpenFlags::empty(), |all, flag| all | *flag);
        let flags = flags.iter().fold(DescriptorFlags::empty(), |all, flag| all | *flag);
        self.files().open_at(root, PathFlags::SYMLINK_FOLLOW, path.to_owned(), how, flags).await.map_err(code)
    }

    async fn create(&mut self, path: &str) -> Resource<Descriptor> {
        self.open(path, &[OpenFlags::CREATE]).await.unwrap()
    }

    fn close(&mut self, fd: Resource<Descriptor>) {
        HostDescriptor::drop(&mut self.files(), fd).unwrap();
    }

    async fn write(&mut self, fd: &Resource<Descriptor>, n: u64, offset: u64) -> Result<u64, ErrorCode> {
        let data = vec![7; usize::try_from(n).unwrap()];
        self.files().write(Resource::new_borrow(fd.rep()), data, offset).await.map_err(code)
    }

    async fn set_size(&mut self, fd: &Resource<Descriptor>, size: u64) -> Result<(), ErrorCode> {
        self.files().set_size(Resource::new_borrow(fd.rep()), size).await.map_err(code)
    }

    async fn unlink(&mut self, path: &str) -> Result<(), ErrorCode> {
        let root = self.root();
        self.files().unlink_file_at(root, path.to_owned()).await.map_err(code)
    }

    async fn rename(&mut self, from: &str, to: &str) -> Result<(), ErrorCode> {
        let (one, two) = (self.root(), self.root());
        self.files().rename_at(one, from.to_owned(), two, to.to_owned()).await.map_err(code)
    }

    async fn mkdir(&mut self, path: &str) -> Result<(), ErrorCode> {
        let root = self.root();
        self.files().create_directory_at(root, path.to_owned()).await.map_err(code)
    }

    /// Writes through a stream, piece by piece, until it ends or fails.
    async fn stream(&mut self, fd: &Resource<Descriptor>, offset: Option<u64>, n: u64) -> Result<(), StreamError> {
        let fd = Resource::new_borrow(fd.rep());
        let stream = match offset {
            Some(offset) => self.files().write_via_stream(fd, offset),
            None => self.files().append_via_stream(fd),
        };
        let stream = stream.unwrap();
        let result = self.fill(&stream, n).await;
        self.table.delete(stream).unwrap();
        result
    }

    async fn fill(&mut self, stream: &Resource<DynOutputStream>, n: u64) -> Result<(), StreamError> {
        let stream = self.table.get_mut(stream).unwrap();
        let mut left = n;
        while left > 0 {
            let piece = left.min(10 * KIB);
            stream.blocking_write_and_flush(vec![7; usize::try_from(piece).unwrap()].into()).await?;
            left -= piece;
        }
        Ok(())
    }

    /// What lies in the directory by its own word, and what the account says.
    #[track_caller]
    fn check_account(&self, bytes: u64, files: u64) {
        fn walk(dir: &Path) -> (u64, u64) {
            let mut sum = (0, 0);
            for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let about = entry.metadata().unwrap();
                let below = if about.is_dir() { walk(&entry.path()) } else { (about.len(), 0) };
                sum = (sum.0 + below.0, sum.1 + below.1 + 1);
            }
            sum
        }
        let mut account = lock(&self.scratch.0.account);
        account.sweep();
        assert_eq!((account.bytes, account.files), (bytes, files), "the account: {account:?}");
        drop(account);
        let (there, n) = walk(self.scratch.dir());
        assert!(there <= bytes && n <= files, "there are {there} bytes in {n} files, and the account says less");
    }

    #[track_caller]
    fn check_spent(&self, spent: Spent) {
        assert_eq!(lock(&self.scratch.0.account).refused.take(), Some(spent));
    }
}

fn code(error: FsError) -> ErrorCode {
    error.downcast().expect("not a trap")
}

#[tokio::test]
async fn the_cap_holds_for_every_function_that_writes() {
    let mut guest = Guest::new(100 * KIB, 10);
    let fd = guest.create("a").await;
    assert_eq!(guest.write(&fd, 60 * KIB, 0).await, Ok(60 * KIB));
    guest.check_account(60 * KIB, 1);
    // Over what is there costs nothing; beyond its end what is new.
    guest.write(&fd, 60 * KIB, 0).await.unwrap();
    guest.write(&fd, 10 * KIB, 55 * KIB).await.unwrap();
    guest.check_account(65 * KIB, 1);
    assert_eq!(guest.write(&fd, 36 * KIB, 65 * KIB).await, Err(ErrorCode::InsufficientSpace));
    guest.check_account(65 * KIB, 1);
    guest.check_spent(Spent::Bytes);
    // A hole counts like what is written, by whatever function it is made.
    assert_eq!(guest.set_size(&fd, 101 * KIB).await, Err(ErrorCode::InsufficientSpace));
    assert_eq!(guest.set_size(&fd, u64::MAX).await, Err(ErrorCode::InsufficientSpace));
    assert_eq!(guest.write(&fd, 1, 100 * KIB).await, Err(ErrorCode::InsufficientSpace));
    assert_eq!(guest.write(&fd, 1, u64::MAX).await, Err(ErrorCode::FileTooLarge));
    assert_eq!(guest.write(&fd, 1, u64::MAX - 1).await, Err(ErrorCode::InsufficientSpace));
    guest.set_size(&fd, 100 * KIB).await.unwrap();
    guest.check_account(100 * KIB, 1);
    guest.set_size(&fd, 10 * KIB).await.unwrap();
    guest.check_account(10 * KIB, 1);
    // Streams stop within one piece of it.
    for offset in [None, Some(10 * KIB), Some(95 * KIB)] {
        let error = guest.stream(&fd, offset, 200 * KIB).await.unwrap_err();
        let StreamError::LastOperationFailed(error) = error else { panic!("{error:?}") };
        let error: std::io::Error = error.downcast().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert!(std::fs::metadata(guest.host("a")).unwrap().len() <= 100 * KIB);
        guest.set_size(&fd, 10 * KIB).await.unwrap();
    }
    // Two files together have no more than one.
    let other = guest.create("b").await;
    guest.stream(&other, None, 90 * KIB).await.unwrap();
    assert_eq!(guest.write(&fd, 1, 10 * KIB).await, Err(ErrorCode::InsufficientSpace));
    // Opening a file to empty it gives back what it held.
    let emptied = guest.open("b", &[OpenFlags::CREATE, OpenFlags::TRUNCATE]).await.unwrap();
    guest.check_account(10 * KIB, 2);
    assert_eq!(guest.write(&emptied, 90 * KIB, 0).await, Ok(90 * KIB));
}

#[tokio::test]
async fn what_was_removed_and_is_still_open_counts_until_it_is_closed() {
    let mut guest = Guest::new(100 * KIB, 3);
    let fd = guest.create("a").await;
    guest.write(&fd, 60 * KIB, 0).await.unwrap();
    guest.unlink("a").await.unwrap();
    guest.check_account(60 * KIB, 1);
    // It still grows, and still counts.
    guest.write(&fd, 10 * KIB, 60 * KIB).await.unwrap();
    let other = guest.create("b").await;
    assert_eq!(guest.write(&other, 40 * KIB, 0).await, Err(ErrorCode::InsufficientSpace));
    guest.set_size(&fd, 50 * KIB).await.unwrap();
    guest.write(&other, 40 * KIB, 0).await.unwrap();
    guest.close(fd);
    guest.check_account(40 * KIB, 1);
    guest.write(&other, 60 * KIB, 40 * KIB).await.unwrap();
    // A stream keeps it as a descriptor does.
    let stream = guest.files().append_via_stream(Resource::new_borrow(other.rep())).unwrap();
    guest.close(other);
    guest.unlink("b").await.unwrap();
    guest.check_account(100 * KIB, 1);
    guest.table.delete(stream).unwrap();
    guest.check_account(0, 0);
    // So do the same inode numbers, over and over.
    for _ in 0..50 {
        let fd = guest.create("c").await;
        guest.write(&fd, 90 * KIB, 0).await.unwrap();
        guest.close(fd);
        guest.unlink("c").await.unwrap();
        guest.check_account(0, 0);
    }
    // What another name takes the place of is removed as well; onto itself nothing is.
    for name in ["one", "two"] {
        let fd = guest.create(name).await;
        guest.write(&fd, 40 * KIB, 0).await.unwrap();
        guest.close(fd);
    }
    guest.rename("one", "one").await.unwrap();
    guest.check_account(80 * KIB, 2);
    guest.rename("one", "two").await.unwrap();
    guest.check_account(40 * KIB, 1);
    // A directory that is open has its place until it is closed.
    guest.mkdir("folder").await.unwrap();
    let folder = guest.open_for("folder", &[OpenFlags::DIRECTORY], &[DescriptorFlags::READ]).await.unwrap();
    let root = guest.root();
    guest.files().remove_directory_at(root, "folder".to_owned()).await.map_err(code).unwrap();
    guest.check_account(40 * KIB, 2);
    guest.close(folder);
    guest.check_account(40 * KIB, 1);
}

#[tokio::test]
async fn many_empty_files_and_directories_are_as_many_as_the_limit_says() {
    let mut guest = Guest::new(100 * KIB, 20);
    for n in 0..10 {
        let fd = guest.create(&format!("file-{n}")).await;
        guest.close(fd);
        guest.mkdir(&format!("folder-{n}")).await.unwrap();
    }
    guest.check_account(0, 20);
    assert_eq!(guest.open("more", &[OpenFlags::CREATE]).await.unwrap_err(), ErrorCode::InsufficientSpace);
    guest.check_spent(Spent::Limit(Limit::ScratchFiles));
    assert_eq!(guest.mkdir("more").await, Err(ErrorCode::InsufficientSpace));
    // What is there may be opened with the flag that would make it, and what fails makes nothing.
    let fd = guest.create("file-1").await;
    guest.close(fd);
    assert_eq!(guest.mkdir("folder-1").await, Err(ErrorCode::InsufficientSpace));
    guest.unlink("file-1").await.unwrap();
    guest.check_account(0, 19);
    assert_eq!(guest.mkdir("folder-1").await, Err(ErrorCode::Exist));
    assert_eq!(guest.open("no/where", &[OpenFlags::CREATE]).await.unwrap_err(), ErrorCode::NoEntry);
    guest.check_account(0, 19);
    guest.mkdir("more").await.unwrap();
    guest.check_account(0, 20);
}

#[tokio::test]
async fn open_files_streams_and_listings_are_bounded() {
    let mut guest = Guest::with(Most { bytes: 100 * KIB, files: 100, open: 3 });
    let fds = [guest.create("a").await, guest.create("b").await, guest.create("c").await];
    assert_eq!(guest.open("a", &[]).await.unwrap_err(), ErrorCode::Quota);
    guest.check_spent(Spent::Limit(Limit::ScratchOpen));
    let mut streams = Vec::new();
    for n in 0..8 {
        let fd = Resource::new_borrow(fds[0].rep());
        match n % 2 {
            0 => streams.push(guest.files().append_via_stream(fd).unwrap().rep()),
            _ => streams.push(guest.files().read_via_stream(fd, 0).unwrap().rep()),
        }
    }
    let fd = || Resource::new_borrow(fds[0].rep());
    assert_eq!(guest.files().read_via_stream(fd(), 0).map(drop).map_err(code), Err(ErrorCode::Quota));
    guest.check_spent(Spent::Limit(Limit::OpenStreams));
    assert_eq!(guest.files().write_via_stream(fd(), 0).map(drop).map_err(code), Err(ErrorCode::Quota));
    fds.into_iter().for_each(|fd| guest.close(fd));
    // The first is kept open by its streams.
    let (one, two) = (guest.create("d").await, guest.create("e").await);
    assert_eq!(guest.open("b", &[]).await.unwrap_err(), ErrorCode::Quota);
    for fd in [one, two] {
        guest.close(fd);
    }
    // As many names as four times the limit, however many listings they are in.
    let mut guest = Guest::new(100 * KIB, 20);
    for n in 0..20 {
        guest.mkdir(&format!("{n}")).await.unwrap();
    }
    let mut listings = Vec::new();
    for _ in 0..4 {
        let root = guest.root();
        listings.push(guest.files().read_directory(root).await.map_err(code).unwrap());
    }
    let root = guest.root();
    assert_eq!(guest.files().read_directory(root).await.map(drop).map_err(code), Err(ErrorCode::Quota));
    let listing = listings.pop().unwrap();
    HostDirectoryEntryStream::drop(&mut guest.files(), listing).unwrap();
    let root = guest.root();
    let listing = guest.files().read_directory(root).await.map_err(code).unwrap();
    let first = guest.files().read_directory_entry(listing).await.map_err(code).unwrap();
    assert!(first.is_some());
}

#[tokio::test]
async fn no_path_leads_out_and_no_link_is_made() {
    let mut guest = Guest::new(100 * KIB, 20);
    let outside = guest.outside.path().to_owned();
    let absolute = outside.join("secret").display().to_string();
    guest.mkdir("folder").await.unwrap();
    // Links that somebody else has put there: to a file, to a directory, upwards, and to themselves.
    symlink(&absolute, guest.host("file")).unwrap();
    symlink(outside.join("private"), guest.host("private")).unwrap();
    symlink("..", guest.host("up")).unwrap();
    symlink("round", guest.host("round")).unwrap();
    let paths = [
        "../secret",
        "folder/../../secret",
        "./../secret",
        "..",
        "folder/../..",
        "file",
        "private/new",
        "up/secret",
        "up/private/new",
        "round",
        "/etc/passwd",
        absolute.as_str(),
        "/",
    ];
    for path in paths {
        for how in [&[][..], &[OpenFlags::CREATE], &[OpenFlags::CREATE, OpenFlags::TRUNCATE]] {
            let error = guest.open(path, how).await.map(drop).expect_err(path);
            assert!(
                !matches!(error, ErrorCode::NoEntry | ErrorCode::InsufficientSpace),
                "{path}, {how:?}: {error:?} says what is there"
            );
        }
        let root = guest.root();
        guest.files().stat_at(root, PathFlags::SYMLINK_FOLLOW, path.to_owned()).await.map(drop).expect_err(path);
        let root = guest.root();
        let at = NewTimestamp::Now;
        guest.files().set_times_at(root, PathFlags::SYMLINK_FOLLOW, path.to_owned(), at, at).await.expect_err(path);
        if !["file", "round"].contains(&path) {
            guest.unlink(path).await.expect_err(path);
            guest.rename("folder", path).await.expect_err(path);
            guest.rename(path, "taken").await.expect_err(path);
        }
        guest.mkdir(path).await.expect_err(path);
        let root = guest.root();
        guest.files().remove_directory_at(root, path.to_owned()).await.expect_err(path);
    }
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"canary");
    assert_eq!(std::fs::read_dir(outside.join("private")).unwrap().count(), 0);

    for target in ["folder", "../secret", "/etc/passwd", ""] {
        let root = guest.root();
        let linked = guest.files().symlink_at(root, target.to_owned(), "link".to_owned()).await.map_err(code);
        assert_eq!(linked, Err(ErrorCode::NotPermitted), "{target}");
        let (one, two) = (guest.root(), guest.root());
        let linked = guest
            .files()
            .link_at(one, PathFlags::empty(), target.to_owned(), two, "link".to_owned())
            .await
            .map_err(code);
        assert_eq!(linked, Err(ErrorCode::NotPermitted), "{target}");
    }
    assert!(!guest.host("link").exists());
    // Removing a link of somebody else's removes the link.
    guest.unlink("file").await.unwrap();
    assert!(outside.join("secret").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_becomes_a_link_while_it_is_used_leads_nowhere() {
    let mut guest = Guest::new(100 * KIB, 100_000);
    let (real, link, private) = (guest.host("real"), guest.host("swap"), guest.outside.path().join("private"));
    std::fs::create_dir(&real).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let target = private.clone();
    // Somebody on the host swaps a directory and a link to another one, as fast as it can.
    let swapping = std::thread::spawn(move || {
        let mut n_swaps = 0_u32;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            std::fs::rename(&real, &link).unwrap();
            std::fs::rename(&link, &real).unwrap();
            symlink(&target, &link).unwrap();
            std::fs::remove_file(&link).unwrap();
            n_swaps += 1;
        }
        n_swaps
    });
    for n in 0..2_000 {
        if let Ok(fd) = guest.open(&format!("swap/{n}"), &[OpenFlags::CREATE]).await {
            guest.write(&fd, 1, 0).await.unwrap();
            guest.close(fd);
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(swapping.join().unwrap() > 0);
    assert_eq!(std::fs::read_dir(private).unwrap().count(), 0, "something was written outside");
}

#[tokio::test]
async fn a_descriptor_for_reading_writes_nothing_and_special_files_are_not_waited_for() {
    let mut guest = Guest::new(100 * KIB, 20);
    let fd = guest.create("a").await;
    guest.write(&fd, 10, 0).await.unwrap();
    guest.close(fd);
    let fd = guest.open_for("a", &[], &[DescriptorFlags::READ]).await.unwrap();
    assert_eq!(guest.write(&fd, 1, 0).await, Err(ErrorCode::BadDescriptor));
    assert_eq!(guest.set_size(&fd, 0).await, Err(ErrorCode::BadDescriptor));
    let again = || Resource::new_borrow(fd.rep());
    assert_eq!(guest.files().write_via_stream(again(), 0).map(drop).map_err(code), Err(ErrorCode::BadDescriptor));
    assert_eq!(guest.files().append_via_stream(again()).map(drop).map_err(code), Err(ErrorCode::BadDescriptor));
    assert_eq!(guest.files().read(again(), 100, 0).await.map_err(code).unwrap().0, [7; 10]);
    let emptied = guest.open_for("a", &[OpenFlags::TRUNCATE], &[DescriptorFlags::READ]).await;
    assert_eq!(emptied.map(drop), Err(ErrorCode::Invalid));
    assert_eq!(std::fs::read(guest.host("a")).unwrap(), [7; 10]);
    let root = guest.root();
    assert_eq!(guest.set_size(&root, 0).await, Err(ErrorCode::IsDirectory));
    assert_eq!(guest.write(&root, 1, 0).await, Err(ErrorCode::IsDirectory));
    // A guest can make no special file; one that is there may be looked at and removed.
    mknodat(CWD, guest.host("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let root = guest.root();
    guest.files().stat_at(root, PathFlags::empty(), "pipe".to_owned()).await.map_err(code).unwrap();
    guest.unlink("pipe").await.unwrap();
}

#[tokio::test]
async fn without_a_grant_there_is_no_directory_and_nothing_to_ask() {
    let mut wasi = Guest::new(0, 0);
    wasi.wasi = WasiCtxBuilder::new().build();
    let mut files = Files::new(wasi.filesystem(), None);
    assert!(files.get_directories().unwrap().is_empty());
}
