//! Structural check of FHIR STU3 resources: elements, their cardinality and their types.
//!
//! The interactions check the meaning of elements, and that required ones are present. No message
//! here holds a value from the resource, because it may be about a patient.

use serde_json::{Map, Value};

mod primitive;
mod table;

pub(super) use primitive::Primitive;
pub(super) use table::ELEMENT;

/// Limit: levels of objects and lists in a resource, the resource itself being the first.
pub(super) const DEPTH_MAX: usize = 32;
/// Limit: characters of an unknown name that is repeated in a message.
const NAME_MAX: usize = 64;

/// The elements of a type, in the order of XML.
pub(super) struct Shape(&'static [&'static [Element]]);

/// One element of a type.
pub(super) struct Element {
    pub(super) name: &'static str,
    pub(super) kind: ElementKind,
    pub(super) place: ElementPlace,
    /// Common name of elements that exclude each other, such as `value` for `valueCode`.
    choice: Option<&'static str>,
}

/// Kind of value that an element holds.
#[derive(Clone, Copy)]
pub(super) enum ElementKind {
    /// A primitive value, which may have an id and extensions of its own.
    Plain(Primitive),
    /// A complex value, with elements of its own.
    Complex(&'static Shape),
    /// A whole resource of any type.
    Resource,
    /// Text marked up as XHTML.
    Markup,
}

/// Cardinality of an element, and its form in XML.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementPlace {
    /// At most once.
    Single,
    /// Any number of times.
    List,
    /// At most once, as an attribute in XML.
    Attribute,
}

impl Shape {
    /// Returns the shape of a type of resource, if it is known.
    pub(super) fn of(resource_type: &str) -> Option<&'static Self> {
        table::RESOURCES.iter().find(|(name, _)| *name == resource_type).map(|(_, shape)| *shape)
    }

    /// Returns the name of a type of resource as a static string, if it is known.
    pub(super) fn named(resource_type: &str) -> Option<&'static str> {
        table::RESOURCES.iter().map(|(name, _)| *name).find(|name| *name == resource_type)
    }

    /// Returns all elements in order.
    pub(super) fn elements(&self) -> impl Iterator<Item = &'static Element> {
        self.0.iter().flat_map(|part| part.iter())
    }

    /// Returns the element with this name, if there is one.
    pub(super) fn find(&self, name: &str) -> Option<&'static Element> {
        self.elements().find(|element| element.name == name)
    }
}

impl Element {
    /// Returns true if the element may occur more than once.
    pub(super) fn is_list(&self) -> bool {
        self.place == ElementPlace::List
    }
}

/// A flaw of a resource, with the path to it.
#[derive(Debug)]
pub(super) struct Flaw {
    path: String,
    reason: String,
}

impl Flaw {
    /// Returns a flaw of the current element.
    pub(super) fn here(reason: impl Into<String>) -> Self {
        Self { path: String::new(), reason: reason.into() }
    }

    /// Returns the flaw of an unknown element.
    pub(super) fn unknown(name: &str) -> Self {
        Self::here("is not known").within_input(name)
    }

    /// Prepends a name from the input to the path, or `?` if it cannot be the name of an element.
    pub(super) fn within_input(self, name: &str) -> Self {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let plain = plain && !name.is_empty() && name.len() <= NAME_MAX;
        self.within(if plain { name } else { "?" })
    }

    /// Returns the flaw of too many levels.
    pub(super) fn deep() -> Self {
        Self::here(format!("is more than {DEPTH_MAX} levels deep"))
    }

    /// Prepends the name of an element to the path.
    pub(super) fn within(self, name: &str) -> Self {
        Self { path: format!(".{name}{}", self.path), ..self }
    }

    /// Prepends the index of a list item to the path.
    pub(super) fn at(self, index: usize) -> Self {
        Self { path: format!("[{index}]{}", self.path), ..self }
    }

    /// Returns the message, with the path from `root`.
    pub(super) fn message(&self, root: &str) -> String {
        format!("{root}{} {}", self.path, self.reason)
    }
}

/// Returns the first deviation of a resource from STU3, such as `Appointment.foo is not known`.
pub(super) fn fault(resource: &Value) -> Option<String> {
    let named = resource.get("resourceType").and_then(Value::as_str);
    let root = named.filter(|name| Shape::of(name).is_some()).unwrap_or("the resource");
    judge_resource(resource, 1).err().map(|flaw| flaw.message(root))
}

fn judge_resource(resource: &Value, depth: usize) -> Result<(), Flaw> {
    let fields = object(resource)?;
    let named = fields.get("resourceType").and_then(Value::as_str);
    let named = named.ok_or_else(|| Flaw::here("has no resourceType"))?;
    let shape = Shape::of(named).ok_or_else(|| Flaw::here("is of an unknown type"))?;
    let is_element = |name: &str| name != "resourceType";
    judge_fields(fields, shape, depth, is_element)
}

fn judge_complex(value: &Value, shape: &Shape, depth: usize) -> Result<(), Flaw> {
    let fields = object(value)?;
    if fields.is_empty() {
        return Err(Flaw::here("is empty"));
    }
    judge_fields(fields, shape, depth, |_| true)
}

fn judge_fields(
    fields: &Map<String, Value>,
    shape: &Shape,
    depth: usize,
    is_element: impl Fn(&str) -> bool,
) -> Result<(), Flaw> {
    if depth > DEPTH_MAX {
        return Err(Flaw::deep());
    }
    let mut chosen: Vec<&Element> = Vec::new();
    for (key, value) in fields.iter().filter(|(key, _)| is_element(key)) {
        let name = key.strip_prefix('_').unwrap_or(key);
        let element = shape.find(name).ok_or_else(|| Flaw::unknown(key))?;
        if element.choice.is_some() {
            chosen.push(element);
        }
        let judged = if name.len() == key.len() {
            let beside = fields.get(&format!("_{name}"));
            judge_element(element, value, beside, depth)
        } else {
            judge_beside(element, value, fields.get(name), depth)
        };
        judged.map_err(|flaw| flaw.within(key))?;
    }
    judge_choices(&chosen)
}

/// Checks that at most one of the elements that exclude each other is given.
fn judge_choices(chosen: &[&Element]) -> Result<(), Flaw> {
    let twice = chosen.iter().find_map(|element| {
        let rival =
            |other: &&&Element| other.choice == element.choice && other.name != element.name;
        chosen.iter().find(rival).and(element.choice)
    });
    twice.map_or(Ok(()), |name| Err(Flaw::here("is given in more than one way").within(name)))
}

fn judge_element(
    element: &Element,
    value: &Value,
    beside: Option<&Value>,
    depth: usize,
) -> Result<(), Flaw> {
    if !element.is_list() {
        return judge_value(element.kind, value, depth + 1);
    }
    let beside = beside.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let has_beside = |index: usize| beside.get(index).is_some_and(Value::is_object);
    let is_optional =
        |index: usize| matches!(element.kind, ElementKind::Plain(_)) && has_beside(index);
    judge_list(value, depth, |index, item| {
        let may_be_null = item.is_null() && is_optional(index);
        if may_be_null { Ok(()) } else { judge_value(element.kind, item, depth + 2) }
    })
}

/// Checks the id and extensions beside a primitive value, or beside each of a list.
fn judge_beside(
    element: &Element,
    value: &Value,
    plain: Option<&Value>,
    depth: usize,
) -> Result<(), Flaw> {
    if !matches!(element.kind, ElementKind::Plain(_)) || element.place == ElementPlace::Attribute {
        return Err(Flaw::here("is not known"));
    }
    if !element.is_list() {
        return judge_complex(value, &ELEMENT, depth + 1);
    }
    let plain = plain.and_then(Value::as_array);
    if plain.is_some_and(|plain| value.as_array().is_some_and(|list| list.len() != plain.len())) {
        return Err(Flaw::here("is not as long as the list it belongs to"));
    }
    let plain = plain.map(Vec::as_slice).unwrap_or_default();
    let has_value = |index: usize| plain.get(index).is_some_and(|item| !item.is_null());
    judge_list(value, depth, |index, item| {
        let may_be_null = item.is_null() && has_value(index);
        if may_be_null { Ok(()) } else { judge_complex(item, &ELEMENT, depth + 2) }
    })
}

/// Checks a list, which must have at least one item that is not null.
fn judge_list(
    value: &Value,
    depth: usize,
    judge: impl Fn(usize, &Value) -> Result<(), Flaw>,
) -> Result<(), Flaw> {
    let list = value.as_array().ok_or_else(|| Flaw::here("is not a list"))?;
    if depth >= DEPTH_MAX {
        return Err(Flaw::deep());
    }
    if list.iter().all(Value::is_null) {
        return Err(Flaw::here("is empty"));
    }
    let mut items = list.iter().enumerate();
    items.try_for_each(|(index, item)| judge(index, item).map_err(|flaw| flaw.at(index)))
}

/// Checks a value; `depth` is its level if it is an object.
fn judge_value(kind: ElementKind, value: &Value, depth: usize) -> Result<(), Flaw> {
    match kind {
        ElementKind::Plain(primitive) => {
            primitive.fault(value).map_or(Ok(()), |reason| Err(Flaw::here(reason)))
        }
        ElementKind::Complex(shape) => judge_complex(value, shape, depth),
        ElementKind::Resource => judge_resource(value, depth),
        ElementKind::Markup => {
            let text = value.as_str().ok_or_else(|| Flaw::here("is not a string"))?;
            super::markup::div_fault(text).map_or(Ok(()), |reason| Err(Flaw::here(reason)))
        }
    }
}

fn object(value: &Value) -> Result<&Map<String, Value>, Flaw> {
    value.as_object().ok_or_else(|| Flaw::here("is not an object"))
}

#[cfg(test)]
mod tests;
