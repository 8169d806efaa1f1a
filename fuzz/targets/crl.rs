//! Files of revocation lists, in PEM or DER. One that is accepted holds a list, and each of its lists
//! is accepted by itself, due when it was.

use spine_proxy::fuzzing::revocation_lists;

pub(crate) fn check(data: &[u8]) {
    let Ok(lists) = revocation_lists(data.to_vec()) else { return };
    assert!(!lists.is_empty());
    for (list, at_s) in lists {
        // In DER none begins as PEM does.
        assert_eq!(revocation_lists(list.clone()), Ok(vec![(list, at_s)]));
    }
}
