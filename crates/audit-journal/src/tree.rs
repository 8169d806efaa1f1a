//! Merkle tree over the journal's lines: RFC 6962, section 2.1, with SHA-256.
//!
//! A leaf is the chain's value after a line; leaf 0 is the first line. The root of the tree names the whole
//! journal, and few hashes show that one line is in it ([`verify_inclusion`]) or that a larger tree begins
//! with a smaller one ([`verify_consistency`]). The tree itself is never stored: [`Frontier`] keeps what is
//! needed to append, [`RangeHasher`] computes the hashes of a proof from the lines.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use base64_simd::STANDARD;

/// Hash of a leaf, of an inner node or of a whole tree.
///
/// Written in standard base64, 44 characters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TreeHash([u8; SHA256_OUTPUT_LEN]);

impl TreeHash {
    /// Returns the hash of a leaf with this data.
    #[must_use]
    pub fn leaf(data: &[u8; 32]) -> Self {
        Self::of(&[&LEAF, data])
    }

    fn node(left: &Self, right: &Self) -> Self {
        Self::of(&[&NODE, &left.0, &right.0])
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        parts.iter().for_each(|part| context.update(part));
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }

    /// Returns the 32 bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for TreeHash {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for TreeHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&STANDARD.encode_to_string(self.0))
    }
}

impl fmt::Debug for TreeHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for TreeHash {
    type Err = InvalidTreeHash;

    fn from_str(text: &str) -> Result<Self, InvalidTreeHash> {
        // The decoder is strict: there is one spelling of a hash only.
        let bytes = STANDARD.decode_to_vec(text).map_err(|_| InvalidTreeHash)?;
        bytes.try_into().map(Self).map_err(|_| InvalidTreeHash)
    }
}

/// Error returned for text that is not a tree hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tree hash is 32 bytes in standard base64, which are 44 characters")]
pub struct InvalidTreeHash;

/// Size and root hash of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeHead {
    /// Number of leaves.
    pub size: u64,
    /// Root hash of the tree.
    pub root: TreeHash,
}

/// State of a tree that leaves can be appended to: the roots of its maximal perfect subtrees, largest first.
///
/// Holds at most 63 hashes. By default the empty tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    nodes: Vec<TreeHash>,
}

impl Frontier {
    /// Creates the state of an empty tree.
    #[must_use]
    pub const fn new() -> Self {
        Self { size: 0, nodes: Vec::new() }
    }

    /// Creates the state of a tree of this size from the roots of its maximal perfect subtrees, largest first.
    ///
    /// Returns `None` if the number of roots is not that of the size's one bits, or the size is above 2^63 - 1.
    #[must_use]
    pub fn from_parts(size: u64, nodes: Vec<TreeHash>) -> Option<Self> {
        let expected = usize::try_from(size.count_ones()).ok()?;
        (nodes.len() == expected && size <= SIZE_MAX).then_some(Self { size, nodes })
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: TreeHash) {
        let mut node = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.nodes.pop() {
                node = TreeHash::node(&left, &node);
            }
        }
        self.nodes.push(node);
        self.size += 1;
    }

    /// Returns the number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Returns the roots of the maximal perfect subtrees, largest first.
    #[must_use]
    pub fn nodes(&self) -> &[TreeHash] {
        &self.nodes
    }

    /// Returns the root hash; that of the empty tree is the SHA-256 of nothing.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        let nodes = self.nodes.iter().rev().copied();
        nodes
            .reduce(|right, left| TreeHash::node(&left, &right))
            .unwrap_or_else(|| TreeHash::of(&[]))
    }

    /// Returns the state of the part of the tree that lies in the range, as a tree of its own.
    ///
    /// Returns `None` if that part is not a union of maximal perfect subtrees.
    fn within(&self, range: &Range<u64>) -> Option<Self> {
        let mut part = Self::new();
        let mut begin = 0;
        let spans = (0..u64::BITS).rev().map(|bit| self.size & (1 << bit)).filter(|span| *span > 0);
        for (span, node) in spans.zip(&self.nodes) {
            if range.start <= begin && begin + span <= range.end {
                part.nodes.push(*node);
                part.size += span;
            }
            begin += span;
        }
        let expected = range.end.min(self.size).saturating_sub(range.start);
        (part.size == expected).then_some(part)
    }
}

/// Returns the ranges of leaves whose hashes show that a leaf is in a tree of a size, from the leaf upwards.
///
/// This is `PATH(index, D[size])` of RFC 6962. Returns `None` if the tree has no such leaf.
#[must_use]
pub fn inclusion_ranges(index: u64, size: u64) -> Option<Vec<Range<u64>>> {
    if index >= size {
        return None;
    }
    let (_, siblings) = descend(index, size, |at| at.end - at.start == 1);
    Some(siblings)
}

/// Returns the ranges of leaves whose hashes show that a tree begins with a smaller one, in the proof's order.
///
/// This is `PROOF(old, D[new])` of RFC 6962, empty for equal sizes. Returns `None` unless 0 < old <= new.
#[must_use]
pub fn consistency_ranges(old: u64, new: u64) -> Option<Vec<Range<u64>>> {
    let last = old.checked_sub(1)?;
    if old > new {
        return None;
    }
    let (at, siblings) = descend(last, new, |at| at.end == old);
    // A verifier knows the hash of the whole old tree.
    let first = (at.start > 0).then_some(at);
    Some(first.into_iter().chain(siblings).collect())
}

/// Goes from the root towards a leaf until told to stop.
///
/// Returns the subtree where it stopped, and the siblings of those on the way, lowest first. It must be told
/// to stop at the leaf at the latest.
fn descend(
    leaf: u64,
    size: u64,
    stop: impl Fn(&Range<u64>) -> bool,
) -> (Range<u64>, Vec<Range<u64>>) {
    let mut at = 0..size;
    let mut siblings = Vec::new();
    while !stop(&at) {
        // The left subtree has the largest power of two below the number of leaves.
        let middle = at.start + (at.end - at.start).div_ceil(2).next_power_of_two();
        if leaf < middle {
            siblings.push(middle..at.end);
            at.end = middle;
        } else {
            siblings.push(at.start..middle);
            at.start = middle;
        }
    }
    siblings.reverse();
    (at, siblings)
}

/// Computes the hashes of ranges of leaves in one pass over the leaves.
///
/// Memory depends on the number of ranges only. The ranges are those of [`inclusion_ranges`] or
/// [`consistency_ranges`]; each is hashed as a tree of its own.
#[derive(Debug, Clone)]
pub struct RangeHasher {
    next: u64,
    ranges: Vec<(Range<u64>, Frontier)>,
}

impl RangeHasher {
    /// Creates a hasher that is given the leaves from `start.size()` on.
    ///
    /// Returns `None` if a range is empty, or needs hashes of earlier leaves that the state at the start does
    /// not have. It has them if the start is not after the proof's leaf, or not after the end of the old tree.
    #[must_use]
    pub fn new(ranges: Vec<Range<u64>>, start: &Frontier) -> Option<Self> {
        let ranges = ranges.into_iter().map(|range| {
            let part = start.within(&range)?;
            (!range.is_empty()).then_some((range, part))
        });
        Some(Self { next: start.size, ranges: ranges.collect::<Option<_>>()? })
    }

    /// Takes the next leaf.
    pub fn push(&mut self, leaf: TreeHash) {
        for (range, part) in &mut self.ranges {
            if range.contains(&self.next) {
                part.push(leaf);
            }
        }
        self.next += 1;
    }

    /// Returns the hashes in the order of the ranges, or `None` if there were too few leaves.
    #[must_use]
    pub fn finish(self) -> Option<Vec<TreeHash>> {
        let complete = self.ranges.iter().all(|(range, _)| range.end <= self.next);
        complete.then(|| self.ranges.iter().map(|(_, part)| part.root()).collect())
    }
}

/// Returns true if the proof shows that the tree has this leaf at this index (RFC 9162, section 2.1.3.2).
#[must_use]
pub fn verify_inclusion(leaf: TreeHash, index: u64, head: &TreeHead, proof: &[TreeHash]) -> bool {
    let Some(last) = head.size.checked_sub(1).filter(|last| index <= *last) else {
        return false;
    };
    let mut climb = Climb { node: index, last };
    let mut hash = leaf;
    for sibling in proof {
        hash = match climb.step() {
            Some(Side::Left) => TreeHash::node(sibling, &hash),
            Some(Side::Right) => TreeHash::node(&hash, sibling),
            None => return false,
        };
    }
    climb.last == 0 && hash == head.root
}

/// Returns true if the proof shows that the new tree begins with the old one (RFC 9162, section 2.1.4.2).
///
/// False for an empty old tree: every tree begins with that, so it has no proof.
#[must_use]
pub fn verify_consistency(old: &TreeHead, new: &TreeHead, proof: &[TreeHash]) -> bool {
    if old.size == new.size {
        return old.size > 0 && old.root == new.root && proof.is_empty();
    }
    let Some(node) = old.size.checked_sub(1).filter(|_| old.size < new.size) else {
        return false;
    };
    let mut climb = Climb { node, last: new.size - 1 };
    climb.up(node.trailing_ones());
    // The root of a perfect old tree is a node of the new tree, so the proof leaves it out.
    let known = old.size.is_power_of_two().then_some(&old.root);
    let mut hashes = known.into_iter().chain(proof);
    let Some(first) = hashes.next() else {
        return false;
    };
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in hashes {
        match climb.step() {
            Some(Side::Left) => {
                old_hash = TreeHash::node(sibling, &old_hash);
                new_hash = TreeHash::node(sibling, &new_hash);
            }
            Some(Side::Right) => new_hash = TreeHash::node(&new_hash, sibling),
            None => return false,
        }
    }
    climb.last == 0 && old_hash == old.root && new_hash == new.root
}

/// Place on the way from a leaf to the root: the number of a node among those of its height, and that of the
/// last one (`fn` and `sn` of RFC 9162).
struct Climb {
    node: u64,
    last: u64,
}

/// Side on which a node has its sibling.
enum Side {
    Left,
    Right,
}

impl Climb {
    /// Goes up past the next sibling and returns its side; `None` at the root.
    const fn step(&mut self) -> Option<Side> {
        if self.last == 0 {
            return None;
        }
        let side = if self.node % 2 == 1 || self.node == self.last {
            // A last node with an even number has no sibling at its height: it is its own parent.
            self.up(self.node.trailing_zeros());
            Side::Left
        } else {
            Side::Right
        };
        self.up(1);
        Some(side)
    }

    /// Goes up by a number of heights.
    const fn up(&mut self, heights: u32) {
        self.node = shifted(self.node, heights);
        self.last = shifted(self.last, heights);
    }
}

/// Returns the number without its lowest bits.
const fn shifted(number: u64, bits: u32) -> u64 {
    match number.checked_shr(bits) {
        Some(rest) => rest,
        None => 0,
    }
}

/// Byte before the data of a leaf.
const LEAF: [u8; 1] = [0];
/// Byte before the hashes of an inner node.
const NODE: [u8; 1] = [1];
/// Maximum size of a tree; no journal comes near it, and a leaf more is still a number.
const SIZE_MAX: u64 = u64::MAX >> 1;

#[cfg(test)]
mod tests {
    use ct_merkle::digest::consts::U32;
    use ct_merkle::digest::{FixedOutput, HashMarker, Output, OutputSizeUser, Update};
    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
    use proptest::prelude::*;

    use super::*;

    /// Hash function of this module for the other implementation.
    struct Sha256(Context);

    impl Default for Sha256 {
        fn default() -> Self {
            Self(Context::new(&SHA256))
        }
    }
    impl HashMarker for Sha256 {}
    impl OutputSizeUser for Sha256 {
        type OutputSize = U32;
    }
    impl Update for Sha256 {
        fn update(&mut self, data: &[u8]) {
            self.0.update(data);
        }
    }
    impl FixedOutput for Sha256 {
        fn finalize_into(self, out: &mut Output<Self>) {
            out.copy_from_slice(self.0.finish().as_ref());
        }
    }

    type Other = MemoryBackedTree<Sha256, [u8; 32]>;

    fn data(number: usize) -> [u8; 32] {
        *TreeHash::of(&[&number.to_be_bytes()]).as_bytes()
    }

    fn leaves(size: usize) -> Vec<TreeHash> {
        (0..size).map(|number| TreeHash::leaf(&data(number))).collect()
    }

    fn frontier(leaves: &[TreeHash]) -> Frontier {
        let mut frontier = Frontier::new();
        leaves.iter().for_each(|leaf| frontier.push(*leaf));
        frontier
    }

    fn head(leaves: &[TreeHash]) -> TreeHead {
        TreeHead { size: leaves.len() as u64, root: frontier(leaves).root() }
    }

    fn other(size: usize) -> Other {
        let mut tree = Other::new();
        (0..size).for_each(|number| tree.push(data(number)));
        tree
    }

    fn other_root(head: &TreeHead) -> RootHash<Sha256> {
        RootHash::new(head.root.0.into(), head.size)
    }

    fn bytes(proof: &[TreeHash]) -> Vec<u8> {
        proof.iter().flat_map(|hash| hash.0).collect()
    }

    /// Proof computed in one pass that begins at `start`.
    fn computed(ranges: Option<Vec<Range<u64>>>, start: usize, all: &[TreeHash]) -> Vec<TreeHash> {
        let mut hasher = RangeHasher::new(ranges.unwrap(), &frontier(&all[..start])).unwrap();
        all[start..].iter().for_each(|leaf| hasher.push(*leaf));
        hasher.finish().unwrap()
    }

    fn inclusion(index: usize, start: usize, all: &[TreeHash]) -> Vec<TreeHash> {
        computed(inclusion_ranges(index as u64, all.len() as u64), start, all)
    }

    fn consistency(old: usize, start: usize, all: &[TreeHash]) -> Vec<TreeHash> {
        computed(consistency_ranges(old as u64, all.len() as u64), start, all)
    }

    /// Largest power of two below the number of leaves, found by counting.
    fn split(leaves: usize) -> usize {
        let mut power = 1;
        while power * 2 < leaves {
            power *= 2;
        }
        power
    }

    /// `MTH(D[n])` as RFC 6962 states it.
    fn naive_root(all: &[TreeHash]) -> TreeHash {
        match all {
            [] => TreeHash::of(&[]),
            [leaf] => *leaf,
            more => {
                let (left, right) = more.split_at(split(more.len()));
                TreeHash::node(&naive_root(left), &naive_root(right))
            }
        }
    }

    /// `PATH(m, D[n])` as RFC 6962 states it.
    fn naive_path(index: usize, all: &[TreeHash]) -> Vec<TreeHash> {
        if all.len() == 1 {
            return Vec::new();
        }
        let (left, right) = all.split_at(split(all.len()));
        let (mut path, sibling) = match index.checked_sub(left.len()) {
            None => (naive_path(index, left), right),
            Some(index) => (naive_path(index, right), left),
        };
        path.push(naive_root(sibling));
        path
    }

    /// `SUBPROOF(m, D[n], b)` as RFC 6962 states it.
    fn naive_subproof(old: usize, all: &[TreeHash], whole: bool) -> Vec<TreeHash> {
        if old == all.len() {
            return if whole { Vec::new() } else { vec![naive_root(all)] };
        }
        let (left, right) = all.split_at(split(all.len()));
        let (mut proof, sibling) = if old <= left.len() {
            (naive_subproof(old, left, whole), right)
        } else {
            (naive_subproof(old - left.len(), right, false), left)
        };
        proof.push(naive_root(sibling));
        proof
    }

    /// All proofs that differ from this one by a bit of a hash, a hash or the order.
    fn wrong(proof: &[TreeHash]) -> Vec<Vec<TreeHash>> {
        let mut all = Vec::new();
        for place in 0..proof.len() {
            let mut flipped = proof.to_vec();
            flipped[place].0[place % 32] ^= 1;
            let mut missing = proof.to_vec();
            missing.remove(place);
            let mut twice = proof.to_vec();
            twice.insert(place, proof[place]);
            all.extend([flipped, missing, twice]);
            if place > 0 {
                let mut swapped = proof.to_vec();
                swapped.swap(place - 1, place);
                all.push(swapped);
            }
        }
        let more = proof.iter().copied().chain([TreeHash([7; 32])]).collect();
        all.push(more);
        all
    }

    fn hex(hash: TreeHash) -> String {
        hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Leaves of the test vectors of Certificate Transparency.
    fn known_leaves() -> Vec<TreeHash> {
        let data: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        data.map(|data| TreeHash::of(&[&LEAF, data])).to_vec()
    }

    #[test]
    fn roots_are_those_of_the_known_vectors() {
        let known = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (size, root) in known.iter().enumerate() {
            assert_eq!(hex(frontier(&known_leaves()[..size]).root()), *root, "{size}");
        }
    }

    #[test]
    fn proofs_are_those_of_the_known_vectors() {
        let all = known_leaves();
        let known = [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ];
        assert_eq!(inclusion(5, 0, &all).into_iter().map(hex).collect::<Vec<_>>(), known);
        let known = ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"]
            .into_iter()
            .chain(known.into_iter().skip(1));
        assert!(consistency(6, 0, &all).into_iter().map(hex).eq(known));
    }

    #[test]
    fn another_implementation_has_the_same_roots_and_inclusion_proofs() {
        for size in 1..=65 {
            let (all, tree) = (leaves(size), other(size));
            let head = head(&all);
            assert_eq!(tree.root().as_bytes()[..], head.root.0);
            for index in 0..size {
                let proof = inclusion(index, index, &all);
                assert_eq!(proof, inclusion(index, 0, &all));
                assert_eq!(tree.prove_inclusion(index).as_bytes(), bytes(&proof));
                assert!(verify_inclusion(all[index], index as u64, &head, &proof));
                let theirs = InclusionProof::try_from_bytes(bytes(&proof)).unwrap();
                let root = other_root(&head);
                root.verify_inclusion(&data(index), index as u64, &theirs).unwrap();
            }
        }
    }

    #[test]
    fn another_implementation_has_the_same_consistency_proofs() {
        for size in 1..=65 {
            let (all, tree) = (leaves(size), other(size));
            let new = head(&all);
            for size in 1..=size {
                let old = head(&all[..size]);
                let proof = consistency(size, size, &all);
                assert_eq!(proof, consistency(size, 0, &all));
                assert_eq!(tree.prove_consistency(all.len() - size).as_bytes(), bytes(&proof));
                assert!(verify_consistency(&old, &new, &proof));
                let theirs = ConsistencyProof::try_from_bytes(bytes(&proof)).unwrap();
                other_root(&new).verify_consistency(&other_root(&old), &theirs).unwrap();
            }
        }
    }

    #[test]
    fn altered_inclusion_proofs_are_rejected() {
        for size in 1..=33 {
            let all = leaves(size);
            let head = head(&all);
            for index in 0..size {
                let proof = inclusion(index, 0, &all);
                for wrong in wrong(&proof) {
                    assert!(!verify_inclusion(all[index], index as u64, &head, &wrong));
                }
                for number in (0..=size + 1).filter(|number| *number != index) {
                    assert!(!verify_inclusion(all[index], number as u64, &head, &proof));
                    let leaf = TreeHash::leaf(&data(number));
                    assert!(!verify_inclusion(leaf, index as u64, &head, &proof));
                }
                let head = TreeHead { root: TreeHash([1; 32]), ..head };
                assert!(!verify_inclusion(all[index], index as u64, &head, &proof));
            }
        }
    }

    #[test]
    fn altered_consistency_proofs_are_rejected() {
        for size in 1..=33 {
            let all = leaves(size);
            let new = head(&all);
            for size in 1..=size {
                let old = head(&all[..size]);
                let proof = consistency(size, 0, &all);
                for wrong in wrong(&proof) {
                    assert!(!verify_consistency(&old, &new, &wrong));
                }
                let other = TreeHash([1; 32]);
                assert!(!verify_consistency(&TreeHead { root: other, ..old }, &new, &proof));
                assert!(!verify_consistency(&old, &TreeHead { root: other, ..new }, &proof));
                assert!(!verify_consistency(&TreeHead { size: 0, ..old }, &new, &proof));
                assert!(old == new || !verify_consistency(&new, &old, &proof));
            }
        }
    }

    #[test]
    fn the_largest_numbers_and_long_proofs_are_taken() {
        let root = TreeHash([1; 32]);
        for size in [0, 1, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX / 2 + 2, u64::MAX] {
            let head = TreeHead { size, root };
            for number in [0, 1, size / 2, size - size.min(1), size, u64::MAX] {
                for length in [0, 1, 62, 63, 64, 65, 1000] {
                    let proof = vec![root; length];
                    let old = TreeHead { size: number, root };
                    assert!(!verify_inclusion(TreeHash([2; 32]), number, &head, &proof));
                    let same = number == size && size > 0 && length == 0;
                    assert_eq!(verify_consistency(&old, &head, &proof), same);
                }
                let ranges = inclusion_ranges(number, size);
                assert_eq!(ranges.is_some(), number < size);
                assert!(ranges.is_none_or(|ranges| ranges.len() <= 64));
                let ranges = consistency_ranges(number, size);
                assert_eq!(ranges.is_some(), number > 0 && number <= size);
                assert!(ranges.is_none_or(|ranges| ranges.len() <= 65));
            }
        }
    }

    #[test]
    fn a_frontier_is_made_of_as_many_hashes_as_its_size_has_bits() {
        let whole = frontier(&leaves(13));
        let parts = Frontier::from_parts(whole.size(), whole.nodes().to_vec());
        assert_eq!(parts, Some(whole.clone()));
        assert_eq!(Frontier::from_parts(12, whole.nodes().to_vec()), None);
        assert_eq!(Frontier::from_parts(u64::MAX, vec![TreeHash([0; 32]); 64]), None);
        let mut largest = Frontier::from_parts(SIZE_MAX, vec![TreeHash([0; 32]); 63]).unwrap();
        largest.push(TreeHash([0; 32]));
        assert_eq!((largest.size(), largest.nodes().len()), (SIZE_MAX + 1, 1));
        assert_eq!(Frontier::default(), Frontier::new());
    }

    #[test]
    fn a_hasher_that_lacks_leaves_gives_nothing() {
        let all = leaves(8);
        let start = frontier(&all[..4]);
        for (from, to) in [(1, 3), (2, 4), (3, 6), (2, 2)] {
            assert!(RangeHasher::new(vec![Range { start: from, end: to }], &start).is_none());
        }
        let mut hasher = RangeHasher::new(vec![0..4, 0..6], &start).unwrap();
        hasher.push(all[4]);
        assert_eq!(hasher.clone().finish(), None);
        hasher.push(all[5]);
        let roots = [4, 6].map(|size| naive_root(&all[..size])).to_vec();
        assert_eq!(hasher.clone().finish(), Some(roots.clone()));
        hasher.push(all[6]);
        assert_eq!(hasher.finish(), Some(roots));
    }

    #[test]
    fn a_hash_has_one_spelling() {
        let hash = TreeHash([0; 32]);
        let text = hash.to_string();
        assert_eq!((text.len(), text.parse()), (44, Ok(hash)));
        let head = &text[..42];
        let wrong = [
            String::new(),
            text[..43].to_owned(),
            format!("{head}B="), // bits after the last byte
            format!("{head}A"),
            format!("{head}AA"),
            format!("{head}A=="),
            format!("{head}A=\n"),
            format!(" {text}"),
            format!("{text}="),
            text.replace('A', "-"),
            STANDARD.encode_to_string([0; 31]),
            STANDARD.encode_to_string([0; 33]),
        ];
        for wrong in wrong {
            assert_eq!(wrong.parse::<TreeHash>(), Err(InvalidTreeHash), "{wrong}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn proofs_of_larger_trees_are_those_of_the_recursion(
            size in 1..3000_usize,
            place in any::<prop::sample::Index>(),
            start in any::<prop::sample::Index>(),
        ) {
            let (all, index) = (leaves(size), place.index(size));
            let (old, new) = (head(&all[..=index]), head(&all));
            prop_assert_eq!(new.root, naive_root(&all));

            let proof = inclusion(index, start.index(index + 1), &all);
            prop_assert_eq!(&proof, &naive_path(index, &all));
            prop_assert!(verify_inclusion(all[index], index as u64, &new, &proof));
            let theirs = InclusionProof::try_from_bytes(bytes(&proof)).unwrap();
            let checked = other_root(&new).verify_inclusion(&data(index), index as u64, &theirs);
            prop_assert!(checked.is_ok());
            for wrong in wrong(&proof) {
                prop_assert!(!verify_inclusion(all[index], index as u64, &new, &wrong));
            }

            let proof = consistency(index + 1, start.index(index + 2), &all);
            prop_assert_eq!(&proof, &naive_subproof(index + 1, &all, true));
            prop_assert!(verify_consistency(&old, &new, &proof));
            let theirs = ConsistencyProof::try_from_bytes(bytes(&proof)).unwrap();
            let checked = other_root(&new).verify_consistency(&other_root(&old), &theirs);
            prop_assert!(checked.is_ok());
            prop_assert!(wrong(&proof).iter().all(|wrong| !verify_consistency(&old, &new, wrong)));
        }

        #[test]
        fn a_range_is_hashed_if_the_start_has_its_hashes(
            size in 0..200_usize, from in 0..200_usize, length in 1..100_usize,
        ) {
            // Whatever is given is right: the root of the range as a tree of its own.
            let all = leaves(300);
            let range = from..from + length;
            let numbers = Range { start: range.start as u64, end: range.end as u64 };
            let hasher = RangeHasher::new(vec![numbers], &frontier(&all[..size]));
            prop_assert!(hasher.is_some() || from < size);
            if let Some(mut hasher) = hasher {
                all[size..].iter().for_each(|leaf| hasher.push(*leaf));
                prop_assert_eq!(hasher.finish(), Some(vec![naive_root(&all[range])]));
            }
        }
    }
}
