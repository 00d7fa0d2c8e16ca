use super::*;
use crate::bucket::ObjectKind;
use crate::error::Kind;
use crate::stream::source::InMemory;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

struct Tree {
    dir: tempfile::TempDir,
    bucket: LocalBucket,
}

/// A bucket `root` beside a file `outside` that must never be reached.
fn tree() -> Tree {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    fs::write(dir.path().join("outside"), "secret").unwrap();
    let bucket = LocalBucket::open(&dir.path().join("root")).unwrap();
    Tree { dir, bucket }
}

impl Tree {
    fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join("root").join(OsStr::from_bytes(&keytext::decode(key).unwrap()))
    }

    fn put(&self, key: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(key).parent().unwrap()).unwrap();
        fs::write(self.path(key), bytes).unwrap();
    }

    fn keys(&self, prefix: &str, after: Option<&str>) -> Vec<String> {
        let mut walk = Walk::new(prefix, after);
        std::iter::from_fn(|| walk.next(&self.bucket.shared.root).unwrap()).map(|object| object.key).collect()
    }

    fn read(&self, key: &str) -> Result<Vec<u8>> {
        let mut source = self.bucket.read("data", key, None)?;
        let mut all = Vec::new();
        while let Some(chunk) = source.body.next_chunk()? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    fn write(&self, key: &str, attributes: &[(&str, &str)], bytes: &[u8], overwrite: bool) -> Result<Object> {
        let attributes: Vec<_> = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let body = Source::new(Origin::Plugin, InMemory::new(bytes.to_vec()));
        self.bucket.write(key, &attributes, body, overwrite)
    }

    fn leftovers(&self) -> Vec<String> {
        self.keys("", None).into_iter().filter(|key| key.contains(".strongroom-")).collect()
    }
}

fn check_kind<T: std::fmt::Debug>(result: Result<T>, kind: Kind) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error:?}");
    error
}

#[test]
fn a_listing_is_in_the_order_of_keys() {
    let tree = tree();
    for key in ["b", "a/x", "a/y/z", "a!", "a0", "a.txt", "ä/k", "c\u{10ffff}d/e"] {
        tree.put(key, key);
    }
    fs::create_dir(tree.path("empty")).unwrap();
    symlink("a/x", tree.path("link")).unwrap();
    let keys = tree.keys("", None);
    let expected = [
        "a",
        "a!",
        "a.txt",
        "a/x",
        "a/y",
        "a/y/z",
        "a0",
        "b",
        "c\u{10ffff}d",
        "c\u{10ffff}d/e",
        "empty",
        "link",
        "ä",
        "ä/k",
    ];
    assert_eq!(keys, expected);
    assert!(keys.is_sorted());
}

#[test]
fn a_prefix_is_text_and_not_a_directory() {
    let tree = tree();
    for key in ["ab", "abc/x", "abc/y", "abd", "b/ab"] {
        tree.put(key, "");
    }
    assert_eq!(tree.keys("ab", None), ["ab", "abc", "abc/x", "abc/y", "abd"]);
    assert_eq!(tree.keys("abc/", None), ["abc/x", "abc/y"]);
    assert_eq!(tree.keys("abc/y", None), ["abc/y"]);
    assert_eq!(tree.keys("abc/y/", None), [""; 0]);
    assert_eq!(tree.keys("../", None), [""; 0]);
    assert_eq!(tree.keys("ab", Some("abc/x")), ["abc/y", "abd"]);
    assert_eq!(tree.keys("b", Some("a")), ["b", "b/ab"]);
}

#[test]
fn kinds_and_sizes_are_those_of_the_tree() {
    let tree = tree();
    tree.put("file", "12345");
    symlink("/etc/passwd", tree.path("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, tree.path("pipe"), Mode::RUSR).unwrap();
    let page = tree.bucket.objects("", None).unwrap();
    let seen: Vec<_> = page.objects.iter().map(|o| (o.key.as_str(), o.kind, o.size)).collect();
    assert_eq!(
        seen,
        [("file", ObjectKind::File, 5), ("link", ObjectKind::Symlink, 0), ("pipe", ObjectKind::Special, 0)]
    );
    assert_eq!(page.next, None);
}

#[test]
fn pages_hold_a_thousand_and_join_without_gaps() {
    let tree = tree();
    for i in 0..2_345 {
        tree.put(&format!("d{}/{i:05}", i % 3), "");
    }
    let (mut seen, mut after, mut sizes) = (Vec::new(), None, Vec::new());
    loop {
        let page = tree.bucket.objects("", after.as_deref()).unwrap();
        sizes.push(page.objects.len());
        seen.extend(page.objects.into_iter().map(|o| o.key));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [1_000, 1_000, 348]);
    assert_eq!(seen, tree.keys("", None));
    assert!(seen.is_sorted());
}

#[test]
fn windows_that_overflow_lose_nothing_and_stay_bounded() {
    let tree = tree();
    for i in 0..40 {
        for j in 0..12 {
            tree.put(&format!("dir{i:02}/sub/{j:03}"), "");
        }
        tree.put(&format!("dir{i:02}!"), "");
    }
    let all = tree.keys("", None);
    assert_eq!(all.len(), 40 * (12 + 3));
    let (window, windows) = (400, 500);
    let mut walk = Walk::new("", None).with_windows(window, windows);
    let mut seen = Vec::new();
    let mut most = 0;
    while let Some(object) = walk.next(&tree.bucket.shared.root).unwrap() {
        seen.push(object.key);
        most = most.max(walk.held_bytes());
    }
    assert_eq!(seen, all);
    assert!(most <= window + windows, "{most}");
}

#[test]
fn a_walk_begins_behind_any_key_whether_or_not_it_exists() {
    let tree = tree();
    for key in ["a/b/c", "a/b-d", "a!", "b/x", "b/y", "zz"] {
        tree.put(key, "");
    }
    let all = tree.keys("", None);
    for after in
        ["", "a", "a!", "a/", "a/a", "a/b", "a/b/", "a/b/c", "a/b/c/d", "a/b/cc", "b", "b/x", "b/xx", "c", "zz", "zzz"]
    {
        let expected: Vec<_> = all.iter().filter(|key| key.as_str() > after).cloned().collect();
        assert_eq!(tree.keys("", Some(after)), expected, "after {after:?}");
    }
}

#[test]
fn a_tree_deeper_than_any_path_of_the_system_is_listed_and_read() {
    let tree = tree();
    let name = "d".repeat(200);
    let mut at = tree.bucket.shared.root.dir(b"").unwrap();
    for _ in 0..60 {
        rustix::fs::mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
        at = openat(&at, name.as_str(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    }
    let file = openat(&at, "leaf", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    fs::File::from(file).write_all(b"deep").unwrap();
    let keys = tree.keys("", None);
    assert_eq!(keys.len(), 61);
    assert_eq!(keys[60].len(), 60 * 201 + 4);
    assert_eq!(tree.read(&keys[60]).unwrap(), b"deep");
    for key in keys.iter().rev() {
        tree.bucket.delete(key, None).unwrap();
    }
    assert_eq!(tree.keys("", None), [""; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_tree_is_listed_once_in_order_and_read_back(paths in prop::collection::btree_set(
        prop::collection::vec("[!a/b0\u{80}\u{10ff80}]{1,3}".prop_map(|s| s.replace('/', "\u{1}").into_bytes())
            .prop_flat_map(|b| (Just(b), prop::option::of(any::<u8>())))
            .prop_map(|(mut b, extra)| { b.extend(extra.filter(|x| *x != 0 && *x != b'/')); b }), 1..4), 0..14)) {
        let tree = tree();
        let mut files = BTreeSet::new();
        for parts in &paths {
            let key = keytext::encode(&parts.join(&b'/'));
            let path = tree.path(&key);
            if fs::create_dir_all(path.parent().unwrap()).is_ok() && fs::write(&path, &key).is_ok() {
                files.insert(key);
            }
        }
        let keys = tree.keys("", None);
        prop_assert!(keys.is_sorted());
        let listed: BTreeSet<_> = keys.iter().filter(|key| tree.path(key).is_file()).cloned().collect();
        prop_assert_eq!(&listed, &files);
        for key in files {
            prop_assert_eq!(tree.read(&key).unwrap(), key.as_bytes());
        }
        for after in &keys {
            let rest: Vec<_> = keys.iter().filter(|key| *key > after).cloned().collect();
            prop_assert_eq!(tree.keys("", Some(after)), rest);
        }
    }
}

#[test]
fn nothing_outside_the_root_is_reached_by_name_or_by_link() {
    for one_by_one in [false, true] {
        let tree = tree();
        if one_by_one {
            tree.bucket.shared.root.resolve_one_by_one();
        }
        symlink("..", tree.path("up")).unwrap();
        symlink("../outside", tree.path("file")).unwrap();
        symlink("/proc/self/root", tree.path("magic")).unwrap();
        tree.put("in/k", "inside");
        assert_eq!(tree.read("in/k").unwrap(), b"inside");
        for key in ["../outside", "in/../../outside", "/etc/passwd", "in/\0"] {
            check_kind(tree.read(key), Kind::Invalid);
            check_kind(tree.write(key, &[], b"x", true), Kind::Invalid);
            check_kind(tree.bucket.delete(key, None), Kind::Invalid);
            check_kind(tree.bucket.attributes(key, None), Kind::Invalid);
        }
        for key in ["up/outside", "magic/etc/passwd", "up/root/in/k"] {
            assert!(matches!(tree.read(key).unwrap_err().kind(), Kind::Denied | Kind::NotFound), "{key}");
            assert!(
                matches!(tree.write(key, &[], b"x", true).unwrap_err().kind(), Kind::Denied | Kind::NotFound),
                "{key}"
            );
            assert!(
                matches!(tree.bucket.delete(key, None).unwrap_err().kind(), Kind::Denied | Kind::NotFound),
                "{key}"
            );
        }
        check_kind(tree.read("file"), Kind::Invalid);
        // Replacing and removing a link touches the link, not what it points to.
        tree.write("file", &[], b"mine", true).unwrap();
        tree.bucket.delete("up", None).unwrap();
        assert_eq!(fs::read(tree.dir.path().join("outside")).unwrap(), b"secret");
        assert_eq!(tree.read("file").unwrap(), b"mine");
    }
}

#[test]
fn a_directory_swapped_for_a_link_in_a_race_leads_nowhere() {
    let tree = tree();
    fs::create_dir(tree.dir.path().join("other")).unwrap();
    fs::write(tree.dir.path().join("other/k"), "secret").unwrap();
    tree.put("d/k", "mine");
    let (root, done) = (tree.dir.path().join("root"), AtomicBool::new(false));
    symlink("../other", root.join("decoy")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let cwd = rustix::fs::CWD;
                let swap = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(cwd, root.join("d"), cwd, root.join("decoy"), swap).unwrap();
            }
        });
        let mut read = 0;
        for i in 0..20_000 {
            if let Ok(bytes) = tree.read("d/k") {
                assert_eq!(bytes, b"mine");
                read += 1;
            }
            if i % 20 == 0 {
                // May land in a directory of our own, or fail; never in the other one.
                let _ = tree.write("d/new", &[], b"x", true);
                let _ = tree.bucket.delete("d/new", None);
            }
            if read > 500 && i > 2_000 {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(read > 0);
    });
    let other: Vec<_> = fs::read_dir(tree.dir.path().join("other")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(other, ["k"]);
}

#[test]
fn a_file_that_changes_while_it_is_read_ends_in_an_error() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("grown", |p| fs::OpenOptions::new().append(true).open(p).unwrap().write_all(b"more").unwrap()),
        ("shorter", |p| fs::OpenOptions::new().write(true).open(p).unwrap().set_len(3).unwrap()),
        ("rewritten", |p| fs::OpenOptions::new().write(true).open(p).unwrap().write_all(b"XXXXX").unwrap()),
        ("chmod", |p| fs::set_permissions(p, fs::Permissions::from_mode(0o640)).unwrap()),
    ];
    for (name, change) in changes {
        let tree = tree();
        tree.put("f", vec![7; 300_000]);
        let mut source = tree.bucket.read("data", "f", None).unwrap();
        assert_eq!(source.body.open().unwrap().len, Some(300_000));
        assert!(source.body.next_chunk().unwrap().is_some());
        change(&tree.path("f"));
        let error = loop {
            match source.body.next_chunk() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{name}: ended well"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), Kind::Conflict, "{name}: {error:?}");
        assert!(source.body.next_chunk().is_err(), "{name}: an error is final");
    }
}

#[test]
fn what_is_not_a_file_is_not_read_and_the_error_says_what_it_is() {
    let tree = tree();
    fs::create_dir(tree.path("dir")).unwrap();
    symlink("dir", tree.path("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, tree.path("pipe"), Mode::RUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.path("sock")).unwrap();
    for (key, what) in [("dir", "a dir"), ("link", "a symlink"), ("pipe", "a fifo"), ("sock", "a socket")] {
        let error = check_kind(tree.read(key), Kind::Invalid);
        assert!(error.facts().iter().any(|(_, fact)| fact == what), "{error:?}");
    }
    check_kind(tree.read("missing"), Kind::NotFound);
    check_kind(tree.read("missing/k"), Kind::NotFound);
    check_kind(tree.bucket.read("data", "dir", Some("1")), Kind::NotFound);
}

#[test]
fn attributes_come_back_as_they_were_written() {
    let tree = tree();
    let wanted = [("type", "file"), ("mode", "0640"), ("mtime-ns", "-1500000001"), ("uid", "0"), ("gid", "0")];
    let mut wanted: Vec<_> = wanted.to_vec();
    let has_xattrs = rustix::fs::setxattr(tree.path(""), "user.t", b"", rustix::fs::XattrFlags::empty()).is_ok();
    if rustix::process::geteuid().is_root() {
        (wanted[3], wanted[4]) = (("uid", "1234"), ("gid", "4321"));
    } else {
        wanted.truncate(3);
    }
    if has_xattrs {
        wanted.extend([("xattr.user.bytes", "base64:/w=="), ("xattr.user.text", "hellö")]);
    }
    tree.write("f", &wanted, b"abc", false).unwrap();
    tree.write("d", &[("type", "dir"), ("mode", "0710"), ("mtime-ns", "1000000007")], b"", false).unwrap();
    tree.write("l", &[("type", "symlink"), ("link-target", "../\u{10ffff}"), ("mtime-ns", "5")], b"", false).unwrap();
    let got = tree.bucket.attributes("f", None).unwrap();
    for (name, value) in &wanted {
        assert!(got.contains(&((*name).to_owned(), (*value).to_owned())), "{name} in {got:?}");
    }
    assert_eq!(tree.bucket.read("data", "f", None).unwrap().body.open().unwrap().attributes, got);
    let dir = fs::metadata(tree.path("d")).unwrap();
    assert_eq!((dir.mode() & 0o7777, dir.mtime(), dir.mtime_nsec()), (0o710, 1, 7));
    assert_eq!(fs::read_link(tree.path("l")).unwrap().as_os_str().as_bytes(), b"../\xff");
    let link = tree.bucket.attributes("l", None).unwrap();
    for pair in [("type", "symlink"), ("link-target", "../\u{10ffff}"), ("mtime-ns", "5")] {
        assert!(link.contains(&(pair.0.to_owned(), pair.1.to_owned())), "{link:?}");
    }
    tree.bucket.flush().unwrap();
}

#[test]
fn what_is_there_is_kept_unless_it_may_be_replaced() {
    let tree = tree();
    tree.put("f", "old");
    fs::create_dir(tree.path("d")).unwrap();
    symlink("nowhere", tree.path("l")).unwrap();
    for key in ["f", "d", "l"] {
        check_kind(tree.write(key, &[], b"new", false), Kind::Conflict);
        check_kind(tree.write(key, &[("type", "symlink"), ("link-target", "x")], b"", false), Kind::Conflict);
        check_kind(tree.write(key, &[("type", "dir")], b"", false), Kind::Conflict);
    }
    assert_eq!(tree.read("f").unwrap(), b"old");
    for key in ["f", "l"] {
        tree.write(key, &[], b"new", true).unwrap();
        assert_eq!(tree.read(key).unwrap(), b"new");
        check_kind(tree.write(key, &[("type", "dir")], b"", true), Kind::Conflict);
    }
    check_kind(tree.write("d", &[], b"new", true), Kind::Conflict);
    tree.write("d", &[("type", "dir"), ("mode", "0700")], b"", true).unwrap();
    assert_eq!(tree.leftovers(), [""; 0]);
}

#[test]
fn a_directory_made_on_the_way_takes_its_attributes_once() {
    let tree = tree();
    tree.write("a/b/f", &[], b"x", false).unwrap();
    assert_eq!(fs::metadata(tree.path("a")).unwrap().mode() & 0o7777, 0o700);
    for key in ["a/b", "a"] {
        tree.write(key, &[("type", "dir"), ("mode", "0555"), ("mtime-ns", "42")], b"", false).unwrap();
        check_kind(tree.write(key, &[("type", "dir"), ("mode", "0777")], b"", false), Kind::Conflict);
    }
    for key in ["a/b", "a"] {
        let meta = fs::metadata(tree.path(key)).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.mtime_nsec()), (0o555, 42));
    }
}

struct Failing(u32);

impl crate::stream::ByteSource for Failing {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| Error::failed("the source failed"))?;
        buf[0] = 1;
        Ok(1)
    }
}

#[test]
fn a_body_that_fails_leaves_nothing_and_keeps_what_was_there() {
    let tree = tree();
    tree.put("f", "old");
    for n in 0..3 {
        let body = Source::new(Origin::Plugin, Failing(n));
        check_kind(tree.bucket.write("f", &[], body, true), Kind::Failed);
    }
    assert_eq!(tree.keys("", None), ["f"]);
    assert_eq!(tree.read("f").unwrap(), b"old");
}

#[test]
fn a_sparse_file_comes_back_with_its_holes() {
    let tree = tree();
    let len = 8 << 20;
    let file = fs::File::create(tree.path("s")).unwrap();
    file.set_len(len).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 4 << 20).unwrap();
    drop(file);
    let attributes = tree.bucket.attributes("s", None).unwrap();
    assert!(attributes.contains(&("sparse".to_owned(), "true".to_owned())), "{attributes:?}");
    let body = tree.bucket.read("data", "s", None).unwrap();
    tree.bucket.write("t", &attributes, body, false).unwrap();
    let meta = fs::metadata(tree.path("t")).unwrap();
    assert_eq!(meta.len(), len);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    assert_eq!(tree.read("t").unwrap(), tree.read("s").unwrap());
}

#[test]
fn only_empty_directories_are_removed() {
    let tree = tree();
    tree.put("d/f", "");
    check_kind(tree.bucket.delete("d", None), Kind::Conflict);
    check_kind(tree.bucket.delete("gone", None), Kind::NotFound);
    tree.bucket.delete("d/f", None).unwrap();
    tree.bucket.delete("d", None).unwrap();
    assert_eq!(tree.keys("", None), [""; 0]);
}

#[test]
fn a_tree_has_no_configuration_and_a_bucket_needs_a_directory() {
    let tree = tree();
    assert_eq!(tree.bucket.read_config("versioning").unwrap(), None);
    check_kind(tree.bucket.write_config("versioning", "{}"), Kind::Invalid);
    check_kind(LocalBucket::open(&tree.dir.path().join("missing")), Kind::NotFound);
    assert!(LocalBucket::open(&tree.dir.path().join("outside")).is_err());
}
