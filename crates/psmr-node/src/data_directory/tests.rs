//! Tests of the data directory: its identity, its lock, and what is refused.

use super::*;
use DataDirectoryError as E;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temporary directory")
}

fn identity() -> Identity {
    Identity { cluster: [0xc5; 16], replica: 2, member: Member::fresh(5), genesis: Bytes::from_static(b"\x00\x7f tables") }
}

fn one_line(error: &E, path: &Path) {
    let line = error.to_string();
    assert!(line.contains(&path.display().to_string()) && line.contains("; ") && !line.contains('\n'), "{line}");
}

#[test]
fn it_is_made_once_and_keeps_its_identity() {
    let root = directory();
    let path = root.path().join("a/b");
    let mut made = DataDirectory::open_or_create(&path, identity()).expect("create");
    assert_eq!(made.identity(), &identity());
    assert!(made.checkpoints_path().is_dir());
    std::fs::create_dir(made.log_path()).expect("log");
    std::fs::write(made.log_path().join("segment"), b"").expect("log");
    for standing in [Standing::Fresh { founder: 9 }, Standing::Rejoining, Standing::Established { founding: vec![9, 7, 8] }] {
        let member = Member { incarnation: 7, standing };
        made.set_member(member.clone()).expect("write");
        drop(made);
        made = DataDirectory::open_or_create(&path, identity()).expect("open");
        assert_eq!(made.identity().member, member, "that of the directory, not the expected one");
    }
    drop(made);
    let again = DataDirectory::open_or_create(&path, identity()).expect("open");
    drop(again);
    assert_eq!(DataDirectory::open(&path).expect("open").identity().genesis, identity().genesis);
    assert_eq!(read_identity(&path).expect("read").expect("some").cluster, [0xc5; 16]);
    assert_eq!(cluster_text(&[0xc5; 16]), "c5".repeat(16));
}

#[test]
fn a_member_without_its_log_is_refused() {
    let root = directory();
    let mut made = DataDirectory::open_or_create(root.path(), identity()).expect("create");
    made.set_member(Member { incarnation: 5, standing: Standing::Established { founding: vec![4, 5, 6] } }).expect("write");
    drop(made);
    let error = DataDirectory::open_or_create(root.path(), identity()).expect_err("no log");
    assert!(error.to_string().contains("must not vote"), "{error}");
    one_line(&error, root.path());
}

#[test]
fn one_process_has_it_open() {
    let root = directory();
    let held = DataDirectory::open_or_create(root.path(), identity()).expect("create");
    let error = DataDirectory::open_or_create(root.path(), identity()).expect_err("in use");
    assert_eq!(error, E::InUse { path: root.path().into() });
    one_line(&error, root.path());
    drop(held);
    DataDirectory::open(root.path()).expect("free again");
}

#[test]
fn another_s_directory_is_refused() {
    let root = directory();
    drop(DataDirectory::open_or_create(root.path(), identity()).expect("create"));
    let others = [
        Identity { cluster: [1; 16], ..identity() },
        Identity { replica: 3, ..identity() },
        Identity { genesis: Bytes::from_static(b"other tables"), ..identity() },
    ];
    let errors = others.map(|other| DataDirectory::open_or_create(root.path(), other).expect_err("refused"));
    errors.iter().for_each(|error| one_line(error, root.path()));
    assert!(matches!(errors, [E::OtherCluster { .. }, E::OtherReplica { found: 2, expected: 3, .. }, E::OtherGenesis { .. }]));
    assert!(DataDirectory::open_or_create(root.path(), identity()).is_ok(), "nothing was changed");
}

#[test]
fn what_is_no_data_directory_is_refused_and_untouched() {
    let root = directory();
    let file = root.path().join("file");
    std::fs::write(&file, b"mine").expect("write");
    for path in [file.clone(), file.join("below")] {
        let error = DataDirectory::open_or_create(&path, identity()).expect_err("a file");
        assert_eq!(error, E::NotADirectory { path: file.clone() });
    }
    let error = DataDirectory::open_or_create(root.path(), identity()).expect_err("not empty");
    assert_eq!(error, E::Foreign { path: root.path().into() });
    one_line(&error, root.path());
    assert_eq!(std::fs::read_dir(root.path()).expect("list").count(), 1);
    assert!(matches!(DataDirectory::open(&root.path().join("none")), Err(E::Missing { .. })));
    let error = DataDirectory::open_or_create(Path::new("/proc/psmr"), identity()).expect_err("not writable");
    one_line(&error, Path::new("/proc/psmr"));
}

#[test]
fn what_a_crash_in_the_making_leaves_does_not_count() {
    let root = directory();
    std::fs::write(root.path().join("lock"), b"").expect("write");
    std::fs::write(root.path().join("identity.tmp"), b"psmr dat").expect("write");
    DataDirectory::open_or_create(root.path(), identity()).expect("create");
}

#[test]
fn every_flipped_bit_and_every_truncation_of_the_identity_is_noticed() {
    let root = directory();
    let file = root.path().join(IDENTITY);
    let whole = encode(&identity()).into_bytes();
    let truncated = (0..whole.len()).map(|length| whole[..length].to_vec());
    let flipped = (0..whole.len() * 8).map(|bit| {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    for bytes in truncated.chain(flipped) {
        std::fs::write(&file, bytes).expect("write");
        assert!(matches!(DataDirectory::open_or_create(root.path(), identity()), Err(E::Damaged { .. })));
    }
    std::fs::write(&file, whole).expect("write");
    DataDirectory::open_or_create(root.path(), identity()).expect("whole again");
}

#[test]
fn another_format_is_told_from_damage() {
    let body = encode(&identity()).replace("format 2\n", "format 3\n");
    let body = &body[..body.rfind("crc32c").expect("checksum")];
    let text = format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
    let error = decode(text.as_bytes(), Path::new("/d/identity")).expect_err("later");
    assert!(matches!(&error, E::UnknownVersion { version, .. } if version == "3"));
    one_line(&error, Path::new("/d/identity"));
}

#[test]
fn where_one_may_not_write_is_the_wrong_directory_and_a_full_disk_is_not() {
    let path = Path::new("/d");
    let of = |code| E::io("create", path, &io::Error::from_raw_os_error(code));
    for error in [of(libc::EACCES), of(libc::EPERM), of(libc::EROFS)] {
        one_line(&error, path);
        assert!(error.is_wrong_directory(), "{error}");
    }
    for error in [of(libc::ENOSPC), of(libc::EIO)] {
        one_line(&error, path);
        assert!(!error.is_wrong_directory(), "{error}");
    }
}
