use super::*;
use crate::error::Kind;
use crate::store::{conformance, crc64nvme};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts how often directories are flushed, and fails one of the next times when told to.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    n: AtomicUsize,
    /// How many flushes go well before one fails; 0 for none that fails.
    fails_after: AtomicUsize,
}

impl Flushes {
    pub(super) fn next(&self) -> io::Result<()> {
        self.n.fetch_add(1, Ordering::SeqCst);
        match self.fails_after.load(Ordering::SeqCst) {
            0 => Ok(()),
            left => {
                self.fails_after.store(left - 1, Ordering::SeqCst);
                if left == 1 { Err(io::Error::other("on purpose")) } else { Ok(()) }
            }
        }
    }

    /// Lets the flush with this number from now, from 1, fail.
    fn fail_at(&self, at: usize) {
        self.fails_after.store(at, Ordering::SeqCst);
    }

    /// How many there were since the last call.
    fn take(&self) -> usize {
        self.n.swap(0, Ordering::SeqCst)
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

fn scratch() -> (tempfile::TempDir, LocalStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    (dir, store)
}

async fn put(store: &LocalStore, name: &str, body: &'static [u8]) -> Result<ObjectInfo> {
    store.put(&key(name), Bytes::from_static(body), Condition::Absent).await
}

#[tokio::test]
async fn it_does_what_every_store_does() {
    let (_dir, store) = scratch();
    conformance::run(&(Arc::new(store) as Arc<dyn Store>), "suite").await;
}

#[tokio::test]
async fn keys_never_lead_out_of_the_root() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"secret").unwrap();
    let (dir, store) = scratch();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("file")).unwrap();
    std::os::unix::fs::symlink("..", dir.path().join("up")).unwrap();
    for name in ["link/secret", "file", "up/x"] {
        let read = store.read(&key(name), 0..6).await;
        assert!(matches!(read, Err(ref error) if error.kind() == Kind::Denied), "{name}: {read:?}");
    }
    for name in ["link/new", "up/new", "link/deep/er/new"] {
        assert!(put(&store, name, b"x").await.is_err(), "{name}");
        assert!(store.delete(&key("link/secret"), None).await.is_err());
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    assert!(store.list("", None).await.unwrap().objects.is_empty(), "links are not objects");
}

#[tokio::test]
async fn a_put_over_a_link_does_not_follow_it() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    std::fs::write(&target, b"before").unwrap();
    let (dir, store) = scratch();
    std::os::unix::fs::symlink(&target, dir.path().join("a")).unwrap();
    assert!(put(&store, "a", b"after").await.is_err());
    assert_eq!(std::fs::read(&target).unwrap(), b"before");
}

#[tokio::test]
async fn nobody_else_may_read_what_is_stored() {
    let (dir, store) = scratch();
    put(&store, "job/id/record.json", b"x").await.unwrap();
    let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("job/id/record.json"), mode("job/id"), mode("job"), mode(".tmp")), (0o600, 0o700, 0o700, 0o700));
}

#[tokio::test]
async fn a_finished_write_leaves_no_temporary_file_and_a_dropped_one_neither() {
    let (dir, store) = scratch();
    put(&store, "a", b"one").await.unwrap();
    assert_eq!(put(&store, "a", b"two").await.unwrap_err().kind(), Kind::Conflict);
    let upload = store.begin_upload(&key("b")).await.unwrap();
    upload.part(1, Bytes::from_static(b"x"), crc64nvme(b"x")).await.unwrap();
    assert_eq!(store.pending_uploads("").await.unwrap().len(), 1);
    drop(upload);
    assert_eq!(std::fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_process_that_was_killed_before_it_noted_the_key_left_what_everybody_finds_after_an_hour() {
    let (dir, store) = scratch();
    put(&store, "a", b"one").await.unwrap();
    let note = dir.path().join(".tmp/1700000000000-0011223344556677.key");
    std::fs::write(&note, "").unwrap();
    assert!(store.pending_uploads("job/").await.unwrap().is_empty(), "it may be written at any moment");
    let old = std::time::Duration::from_secs(3601);
    let modified = std::fs::metadata(&note).unwrap().modified().unwrap() - old;
    std::fs::File::open(&note).unwrap().set_modified(modified).unwrap();
    for prefix in ["", "job/", "plugins/"] {
        assert_eq!(store.pending_uploads(prefix).await.unwrap().len(), 1, "{prefix}");
    }
    let pending = store.pending_uploads("job/").await.unwrap();
    store.abort_pending(&pending[0]).await.unwrap();
    assert!(!note.exists());
}

#[tokio::test]
async fn what_a_killed_process_left_is_pending_with_its_key() {
    let (dir, store) = scratch();
    let upload = store.begin_upload(&key("job/id/data/x.0001.zst")).await.unwrap();
    // As if the process were gone: nothing of it is dropped.
    std::mem::forget(upload);
    let again = LocalStore::open(dir.path()).unwrap();
    let pending = again.pending_uploads("job/").await.unwrap();
    assert_eq!(pending[0].key, "job/id/data/x.0001.zst");
    again.abort_pending(&pending[0]).await.unwrap();
    assert!(again.pending_uploads("").await.unwrap().is_empty());
    for id in ["", "../a", "lock", "a/b"] {
        let forged = PendingUpload { id: id.to_owned(), ..pending[0].clone() };
        assert_eq!(again.abort_pending(&forged).await.unwrap_err().kind(), Kind::Invalid, "{id}");
    }
}

#[tokio::test]
async fn names_of_temporary_files_are_not_keys() {
    let (_dir, store) = scratch();
    assert_eq!(put(&store, ".tmp/x", b"x").await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(store.head(&key(".tmp/x")).await.unwrap_err().kind(), Kind::Invalid);
    put(&store, ".tmpx/.tmp/x", b"x").await.unwrap();
    assert_eq!(store.folders(".tmpx/").await.unwrap(), [".tmp"]);
}

#[tokio::test]
async fn an_object_and_others_beneath_its_name_are_refused_with_the_reason() {
    let (_dir, store) = scratch();
    put(&store, "a", b"x").await.unwrap();
    let error = put(&store, "a/b", b"x").await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("beneath its name"), "{error:?}");
    put(&store, "c/d", b"x").await.unwrap();
    assert!(put(&store, "c", b"x").await.is_err());
}

#[tokio::test]
async fn removing_tidies_up_empty_directories_and_a_racing_write_survives_it() {
    let (dir, store) = scratch();
    put(&store, "a/b/c", b"x").await.unwrap();
    store.delete(&key("a/b/c"), None).await.unwrap();
    assert!(!dir.path().join("a").exists());
    let writer = async {
        for n in 0..200 {
            put(&store, &format!("race/deep/{n}"), b"x").await.unwrap();
        }
    };
    let remover = async {
        for _ in 0..200 {
            put(&store, "race/deep/gone", b"x").await.unwrap();
            store.delete(&key("race/deep/gone"), None).await.unwrap();
        }
    };
    futures_util::join!(writer, remover);
    assert_eq!(store.list("race/", None).await.unwrap().objects.len(), 200);
}

#[test]
fn a_root_that_is_missing_or_no_directory_is_an_error_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let missing = LocalStore::open(&dir.path().join("nope")).unwrap_err();
    assert_eq!(missing.kind(), Kind::Failed);
    assert!(missing.hint_text().unwrap().contains("store init"), "{missing:?}");
    std::fs::write(dir.path().join("file"), b"x").unwrap();
    assert!(LocalStore::open(&dir.path().join("file")).is_err());
    LocalStore::create(&dir.path().join("new/deep")).unwrap();
    LocalStore::open(&dir.path().join("new/deep")).unwrap();
}

#[tokio::test]
async fn a_root_that_vanishes_is_not_an_empty_store() {
    let (dir, store) = scratch();
    std::fs::remove_dir_all(dir.path()).unwrap();
    assert_eq!(store.head(&key("a")).await.unwrap_err().kind(), Kind::Failed);
    assert!(put(&store, "a", b"x").await.is_err());
}

#[tokio::test]
async fn parts_of_uneven_size_are_refused() {
    let (_dir, store) = scratch();
    let upload = store.begin_upload(&key("a")).await.unwrap();
    for (number, body) in [(1, &b"12"[..]), (2, b"1"), (3, b"12")] {
        upload.part(number, Bytes::from_static(body), crc64nvme(body)).await.unwrap();
    }
    let refused = upload.complete(3, 5, crc64nvme(b"12112")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid);
    upload.abort().await.unwrap();
}

#[tokio::test]
async fn an_object_whose_name_may_not_be_on_the_disk_is_not_visible() {
    let (dir, store) = scratch();
    put(&store, "job/a", b"one").await.unwrap();
    store.root.flushes.fail_at(1);
    assert!(put(&store, "job/b", b"two").await.is_err());
    assert_eq!(store.head(&key("job/b")).await.unwrap_err().kind(), Kind::NotFound);
    let upload = store.begin_upload(&key("job/c")).await.unwrap();
    upload.part(1, Bytes::from_static(b"x"), crc64nvme(b"x")).await.unwrap();
    store.root.flushes.fail_at(1);
    assert!(upload.complete(1, 1, crc64nvme(b"x")).await.is_err());
    upload.abort().await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("job")).unwrap().count(), 1, "only the first one");
}

#[tokio::test]
async fn what_is_there_already_with_the_same_bytes_is_flushed_before_it_counts() {
    let (dir, store) = scratch();
    put(&store, "a", b"one").await.unwrap();
    // Another process: nothing is known to be on the disk.
    let again = LocalStore::open(dir.path()).unwrap();
    let upload = again.begin_upload(&key("a")).await.unwrap();
    again.root.flushes.take();
    again.root.flushes.fail_at(1);
    upload.part(1, Bytes::from_static(b"one"), crc64nvme(b"one")).await.unwrap();
    assert!(upload.complete(1, 3, crc64nvme(b"one")).await.is_err());
    assert_eq!(store.read(&key("a"), 0..3).await.unwrap(), "one", "it is not ours to remove");
    upload.complete(1, 3, crc64nvme(b"one")).await.unwrap();
    assert_eq!(again.root.flushes.take(), 2);
}

#[tokio::test]
async fn a_directory_that_exists_is_flushed_once_by_each_process() {
    let (dir, store) = scratch();
    std::fs::create_dir_all(dir.path().join("job/id")).unwrap();
    put(&store, "job/id/a", b"x").await.unwrap();
    assert_eq!(store.root.flushes.take(), 4, "of .tmp, job, id, and the object");
    put(&store, "job/id/b", b"x").await.unwrap();
    assert_eq!(store.root.flushes.take(), 1, "of the object");
}
