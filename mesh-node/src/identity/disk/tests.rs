//! What is kept, what is removed, and who may read it.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use super::*;
use crate::identity::testing::{Leaf, TestCa, identity};

fn stored(ca: &TestCa, account: &str, ends_in: i64) -> Stored {
    let identity = identity(account);
    let now = SystemTime::now();
    let offset = Duration::from_secs(ends_in.unsigned_abs());
    let not_after = if ends_in < 0 { now - offset } else { now + offset };
    let (chain, key) =
        ca.issue(&Leaf { not_before: now - Duration::from_hours(2), not_after, ..Leaf::of(&identity.to_string()) });
    let PrivateKeyDer::Pkcs8(key) = key else { panic!("rcgen writes PKCS #8") };
    let key_pem = rcgen::KeyPair::try_from(key.secret_pkcs8_der()).expect("a key").serialize_pem();
    Stored { identity, key_pem, chain }
}

#[test]
fn what_is_saved_is_loaded_and_only_ours_to_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("certificates");
    let disk = Disk::open(&path).expect("a disk");
    let ca = TestCa::new();
    let mut page = stored(&ca, "page", 3600);
    // A bundle of two roots is one element.
    page.chain[1].push_str(TestCa::new().root_pem());
    assert!(disk.load(&page.identity).is_none());
    disk.save(&page).expect("saved");
    disk.save(&page).expect("saved over the first");
    let loaded = disk.load(&page.identity).expect("loaded");
    assert_eq!((loaded.key_pem.as_str(), &loaded.chain), (page.key_pem.as_str(), &page.chain));
    loaded.key().expect("a key");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let files: Vec<_> = fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(files.len(), 1, "nothing is left beside it: {files:?}");
    assert_eq!(mode(&files[0]), 0o600);
    assert!(disk.load(&identity("stock")).is_none());
}

#[test]
fn opening_removes_what_has_expired_or_can_not_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::open(folder.path()).expect("a disk");
    let ca = TestCa::new();
    let (good, old) = (stored(&ca, "good", 3600), stored(&ca, "old", -60));
    disk.save(&good).expect("saved");
    disk.save(&old).expect("saved");
    fs::write(folder.path().join("torn.new"), "half a key").expect("written");
    let disk = Disk::open(folder.path()).expect("a disk");
    assert!(disk.load(&good.identity).is_some() && disk.load(&old.identity).is_none());
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}
