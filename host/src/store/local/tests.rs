use super::*;
use crate::error::Kind;
use crate::store::{conformance, crc64nvme};
use std::os::unix::fs::PermissionsExt;

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
