//! Tests of checkpoint files: damage anywhere, falling back, keeping two, shipping.

use super::*;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temporary directory")
}

fn sections(cut: u64) -> Vec<(u32, Vec<u8>)> {
    vec![(1, format!("state at {cut}").into_bytes()), (2, Vec::new()), (7, vec![0xa5; 50])]
}

fn checkpoint(cut: u64) -> Checkpoint {
    let section = |(kind, bytes): (u32, Vec<u8>)| Section { kind, bytes: bytes.into() };
    Checkpoint { cut, sections: sections(cut).into_iter().map(section).collect() }
}

fn names(directory: &Path) -> Vec<String> {
    let items = std::fs::read_dir(directory).expect("list");
    let mut names: Vec<_> = items.map(|item| item.expect("item").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_checkpoint_comes_back_and_the_two_newest_are_kept() {
    let directory = directory();
    assert_eq!(newest_valid(directory.path()), Ok(None));
    for cut in [5, 10, 300] {
        write(directory.path(), cut, sections(cut)).expect("write");
        let newest = newest_valid(directory.path()).expect("read").expect("some");
        assert_eq!((newest.checkpoint, newest.passed_over), (checkpoint(cut), Vec::new()));
    }
    assert_eq!(cuts(directory.path()), Ok(vec![10, 300]));
    assert_eq!(names(directory.path()).len(), 2);
}

#[test]
fn sections_larger_than_a_piece_come_back() {
    let directory = directory();
    let large: Vec<u8> = (0..SYNC_PIECE_BYTES + READ_PIECE_BYTES + 3).map(|place| (place % 253) as u8).collect();
    write(directory.path(), 1, [(1, &large), (2, &large[..5].to_vec())]).expect("write");
    let found = newest_valid(directory.path()).expect("read").expect("some").checkpoint;
    assert_eq!((&found.sections[0].bytes[..], &found.sections[1].bytes[..]), (&large[..], &large[..5]));
}

/// Every truncation, every flipped bit, and bytes too many: never taken for a checkpoint, and the older one serves.
#[test]
fn any_damage_is_noticed_and_the_older_one_serves() {
    let directory = directory();
    write(directory.path(), 1, sections(1)).expect("write");
    let path = write(directory.path(), 2, sections(2)).expect("write");
    let whole = std::fs::read(&path).expect("read");
    let truncated = (0..whole.len()).map(|length| whole[..length].to_vec());
    let flipped = (0..whole.len() * 8).map(|bit| {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    let longer = [[&whole[..], &[0; 16]].concat(), [&whole[..], &whole[..]].concat()];
    for bytes in truncated.chain(flipped).chain(longer) {
        std::fs::write(&path, &bytes).expect("damage");
        assert!(matches!(verify(&path, 2), Err(CheckpointError::Damaged { .. })));
        let newest = newest_valid(directory.path()).expect("read").expect("some");
        assert_eq!((newest.checkpoint, newest.passed_over.len()), (checkpoint(1), 1));
        assert_eq!(cuts(directory.path()), Ok(vec![1]));
    }
    write(directory.path(), 3, sections(3)).expect("write");
    assert_eq!(cuts(directory.path()), Ok(vec![1, 3]), "a damaged one does not count among the two");
    assert_eq!(names(directory.path()).len(), 2, "nor does it stay for ever");
}

#[test]
fn no_whole_checkpoint_is_not_the_same_as_none() {
    let directory = directory();
    for cut in [1, 2] {
        let path = write(directory.path(), cut, sections(cut)).expect("write");
        let length = std::fs::metadata(&path).expect("metadata").len();
        File::options().write(true).open(&path).expect("open").set_len(length - 1).expect("truncate");
    }
    let error = newest_valid(directory.path()).expect_err("none is whole");
    assert!(matches!(&error, CheckpointError::NoneValid(causes) if causes.len() == 2));
    assert!(error.to_string().contains("of a peer") && !error.to_string().contains('\n'), "{error}");
}

#[test]
fn a_checkpoint_under_another_cut_s_name_or_of_a_later_version_is_refused() {
    let directory = directory();
    let path = write(directory.path(), 4, sections(4)).expect("write");
    std::fs::rename(&path, checkpoint_path(directory.path(), 5)).expect("rename");
    assert!(matches!(newest_valid(directory.path()), Err(CheckpointError::NoneValid(_))));
    let mut bytes = std::fs::read(checkpoint_path(directory.path(), 5)).expect("read");
    bytes[..EDGE_BYTES].copy_from_slice(&encode_edge(MAGIC, [VERSION + 1, 5], 0));
    std::fs::write(checkpoint_path(directory.path(), 5), bytes).expect("write");
    let error = newest_valid(directory.path()).expect_err("later version");
    assert!(matches!(error, CheckpointError::UnknownVersion { version, .. } if version == VERSION + 1));
}

#[test]
fn an_unfinished_checkpoint_leaves_nothing() {
    let directory = directory();
    let mut writer = CheckpointWriter::create(directory.path(), 9).expect("create");
    writer.section(1, b"half").expect("section");
    drop(writer);
    assert_eq!(names(directory.path()), Vec::<String>::new());
}

fn ship(from: &RawCheckpoint, to: &mut RawInstall) {
    while to.received() < from.length {
        let chunk = from.chunk(to.received(), 37).expect("chunk");
        to.chunk(to.received(), &chunk).expect("take");
    }
    assert!(from.chunk(from.length, 37).expect("end").is_empty());
}

#[test]
fn a_checkpoint_is_shipped_to_a_peer() {
    let (ours, theirs) = (directory(), directory());
    write(ours.path(), 8, sections(8)).expect("write");
    write(theirs.path(), 2, sections(2)).expect("write");
    write(theirs.path(), 3, sections(3)).expect("write");
    let from = read_raw(ours.path(), 8).expect("open");
    std::fs::remove_file(checkpoint_path(ours.path(), 8)).expect("removed while it is shipped");
    let mut to = install_raw(theirs.path(), 8, from.length).expect("begin");
    ship(&from, &mut to);
    to.finish().expect("install");
    assert_eq!(cuts(theirs.path()), Ok(vec![3, 8]));
    assert_eq!(newest_valid(theirs.path()).expect("read").expect("some").checkpoint, checkpoint(8));
}

#[test]
fn an_installed_checkpoint_stays_beside_damaged_newer_ones() {
    let (ours, theirs) = (directory(), directory());
    write(ours.path(), 8, sections(8)).expect("write");
    for cut in [9, 10] {
        std::fs::write(checkpoint_path(theirs.path(), cut), b"broken").expect("write");
    }
    let from = read_raw(ours.path(), 8).expect("open");
    let mut to = install_raw(theirs.path(), 8, from.length).expect("begin");
    ship(&from, &mut to);
    to.finish().expect("install");
    assert_eq!(newest_valid(theirs.path()).expect("read").expect("some").checkpoint, checkpoint(8));
}

#[test]
fn wrong_chunks_and_damaged_bytes_are_not_installed() {
    let (ours, theirs) = (directory(), directory());
    let path = write(ours.path(), 8, sections(8)).expect("write");
    let bytes = std::fs::read(path).expect("read");
    let length = bytes.len() as u64;
    let mut install = install_raw(theirs.path(), 8, length).expect("begin");
    install.chunk(0, &bytes[..10]).expect("take");
    for (offset, count) in [(0, 10), (11, 1), (10, bytes.len() - 9)] {
        let error = install.chunk(offset, &vec![0; count]).expect_err("refused");
        assert!(matches!(error, CheckpointError::WrongChunk(_)), "{error}");
    }
    assert!(matches!(install.finish(), Err(CheckpointError::WrongChunk(_))));
    let mut damaged = bytes.clone();
    damaged[40] ^= 4;
    let mut install = install_raw(theirs.path(), 8, length).expect("begin");
    install.chunk(0, &damaged).expect("take");
    assert!(matches!(install.finish(), Err(CheckpointError::Damaged { .. })));
    let mut install = install_raw(theirs.path(), 7, length).expect("begin");
    install.chunk(0, &bytes).expect("take");
    assert!(matches!(install.finish(), Err(CheckpointError::Damaged { .. })), "of another cut");
    assert_eq!(names(theirs.path()), Vec::<String>::new());
}
