//! The catalogue. What is found is what was named, is on the allowed list, has the request's method,
//! and the path ends in its template; whatever fits so is found.
//!
//! The first byte is the allowed list, the second chooses a method and the third an id, unless the
//! first line of the rest is to be taken for one; the next line is the path.

use http::Method;
use spine_types::interaction::{
    self, AllowedInteractions, CATALOGUE, InteractionGroup, PathSegment,
};

pub(crate) fn check(data: &[u8]) {
    let [groups, method, id, rest @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let (named, path) = text.split_once('\n').unwrap_or(("", text));
    let id = CATALOGUE.get(usize::from(*id)).map_or(named, |known| known.id);
    let methods = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::HEAD];
    let method = methods.get(usize::from(*method)).cloned().unwrap_or(Method::PATCH);
    let chosen = (0_u8..).zip(InteractionGroup::ALL).filter(|(bit, _)| groups >> bit & 1 == 1);
    let names: Vec<&str> = chosen.map(|(_, group)| group.name()).collect();
    let allowed = AllowedInteractions::from_names(names.iter().copied()).unwrap();
    let fits = |known: &&interaction::Interaction| {
        known.id == id
            && known.method == method
            && names.contains(&known.group.name())
            && ends_in(path, known.path)
    };
    let due = CATALOGUE.iter().find(fits).map(|known| known.id);
    let found = interaction::find(&allowed, id, &method, path).ok();
    assert_eq!(found.map(|found| found.id), due, "{id:?} {method} {path:?}");
    if let Some(found) = found {
        let start = found.start_in(path).unwrap();
        assert!(found.is_path(&path[start..]));
    }
}

/// Whether the last segments of a path are these.
fn ends_in(path: &str, template: &[PathSegment]) -> bool {
    let segments: Vec<&str> = path.split('/').collect();
    // A template begins with a slash: something, if nothing, stands before it.
    let Some(start) = segments.len().checked_sub(template.len()).filter(|start| *start > 0) else {
        return false;
    };
    let is_id = |text: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        (1..=64).contains(&text.chars().count()) && text.chars().all(allowed)
    };
    segments[start..].iter().zip(template).all(|(segment, wanted)| match wanted {
        PathSegment::Word(word) => segment == word,
        PathSegment::Id => is_id(segment),
    })
}
