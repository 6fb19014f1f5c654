//! The protocol's tests: each script in `testdata` is played, and the trace that it leaves is compared with the one in it.
//!
//! `PSMR_REWRITE=1 cargo test -p psmr-core --test interaction` writes the present traces into the scripts, to be read as a diff.
#![cfg(not(feature = "shuttle"))]
#![allow(clippy::disallowed_methods, reason = "scripts are files")]

mod common;

use std::path::PathBuf;

fn check(name: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("{name}.txt"));
    let script = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let played = common::script::play(&format!("testdata/{name}.txt"), &script);
    if std::env::var_os("PSMR_REWRITE").is_some() {
        std::fs::write(&path, &played).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        return;
    }
    if let Some((at, (expected, now))) = script.lines().zip(played.lines()).enumerate().find(|(_, (a, b))| a != b) {
        let place = format!("testdata/{name}.txt:{}", at + 1);
        panic!("{place}: the trace has `{now}` where the script has `{expected}`; if that is right, set PSMR_REWRITE=1");
    }
    assert_eq!(script.lines().count(), played.lines().count(), "testdata/{name}.txt: the trace ends elsewhere");
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*

        #[test]
        fn every_script_is_played() {
            let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata");
            let files = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
            let mut names: Vec<String> =
                files.map(|file| file.expect("a file").file_name().to_string_lossy().trim_end_matches(".txt").to_string()).collect();
            names.sort();
            let mut played = vec![$(stringify!($name)),*];
            played.sort_unstable();
            assert_eq!(names, played);
        }
    };
}

scripts! {
    one_stream
    cross_command
    barriers
    multi_group_in_stream
    leader_change
    bridge_partition
    resend
    read_index
    ordered_read
    time_mark
    checkpoint
    install
    admission
}
