use serde_json::json;

use super::*;

/// Returns an appointment with these fields changed; `null` removes one.
fn appointment(change: &Value) -> Value {
    let mut resource = json!({
        "resourceType": "Appointment",
        "id": "9",
        "status": "booked",
        "minutesDuration": 10,
        "start": "2026-04-01T10:00:00+01:00",
        "participant": [{ "actor": { "reference": "Patient/1" }, "status": "accepted" }],
    });
    for (name, value) in change.as_object().unwrap() {
        resource[name] = value.clone();
    }
    resource.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    resource
}

#[test]
fn the_first_flaw_is_named_by_its_path_and_not_by_its_value() {
    let long = "x".repeat(65);
    for (change, message) in [
        (json!({ "foo": "secret" }), "Appointment.foo is not known"),
        (json!({ long: "secret" }), "Appointment.? is not known"),
        (json!({ "94 secret": 1 }), "Appointment.? is not known"),
        (json!({ "status": ["secret"] }), "Appointment.status is not a code"),
        (json!({ "status": "" }), "Appointment.status is empty"),
        (json!({ "status": " secret" }), "Appointment.status is not a code"),
        (json!({ "id": "se cret" }), "Appointment.id is not an id"),
        (json!({ "start": "secret" }), "Appointment.start is not an instant"),
        (
            json!({ "minutesDuration": "10" }),
            "Appointment.minutesDuration is not an integer of at least 1",
        ),
        (json!({ "comment": "a\u{1}" }), "Appointment.comment has a character that is not allowed"),
        (json!({ "participant": {} }), "Appointment.participant is not a list"),
        (json!({ "participant": [] }), "Appointment.participant is empty"),
        (json!({ "participant": [null] }), "Appointment.participant is empty"),
        (json!({ "participant": [{}] }), "Appointment.participant[0] is empty"),
        (json!({ "participant": ["secret"] }), "Appointment.participant[0] is not an object"),
        (
            json!({ "participant": [{ "status": "a" }, { "x": 1 }] }),
            "Appointment.participant[1].x is not known",
        ),
        (json!({ "_participant": [{ "id": "a" }] }), "Appointment._participant is not known"),
        (
            json!({ "contained": [{ "resourceType": "secret" }] }),
            "Appointment.contained[0] is of an unknown type",
        ),
        (json!({ "contained": [{ "id": "a" }] }), "Appointment.contained[0] has no resourceType"),
        (
            json!({ "serviceCategory": { "resourceType": "Slot" } }),
            "Appointment.serviceCategory.resourceType is not known",
        ),
        (
            json!({ "text": { "status": "generated", "div": "<p>secret</p>" } }),
            "Appointment.text.div is not exactly one div in the XHTML namespace",
        ),
        (
            json!({ "extension": [{ "url": "u", "valueCode": "a", "valueString": "a" }] }),
            "Appointment.extension[0].value is given in more than one way",
        ),
        (
            json!({ "extension": [{ "url": "u", "_url": { "id": "a" } }] }),
            "Appointment.extension[0]._url is not known",
        ),
    ] {
        let resource = appointment(&change);
        assert_eq!(fault(&resource).as_deref(), Some(message), "{resource}");
    }
    assert_eq!(fault(&appointment(&json!({}))), None);
    for (other, message) in [
        (json!(null), "the resource is not an object"),
        (json!({}), "the resource has no resourceType"),
        (json!({ "resourceType": 1 }), "the resource has no resourceType"),
        (json!({ "resourceType": "secret" }), "the resource is of an unknown type"),
    ] {
        assert_eq!(fault(&other).as_deref(), Some(message));
    }
}

#[test]
fn a_plain_value_may_have_extensions_beside_it() {
    let beside = json!({ "id": "a", "extension": [{ "url": "u", "valueCode": "c" }] });
    let named = |name: Value| json!({ "resourceType": "Patient", "name": [name] });
    for good in [
        json!({ "family": "A", "_family": beside }),
        json!({ "_family": beside }),
        json!({ "given": ["A", null], "_given": [null, beside] }),
        json!({ "given": ["A", "B"], "_given": [beside, beside] }),
        json!({ "_given": [beside] }),
    ] {
        assert_eq!(fault(&named(good.clone())), None, "{good}");
    }
    for bad in [
        json!({ "_family": {} }),
        json!({ "_family": [beside] }),
        json!({ "_family": { "value": "A" } }),
        json!({ "given": ["A", null] }),
        json!({ "given": ["A", null], "_given": [beside, null] }),
        json!({ "given": ["A"], "_given": [null] }),
        json!({ "given": ["A"], "_given": [null, beside] }),
        json!({ "given": [null], "_given": [beside] }),
        json!({ "_given": [null, beside] }),
        json!({ "_given": beside }),
        json!({ "__given": [beside] }),
    ] {
        assert!(fault(&named(bad.clone())).is_some(), "{bad}");
    }
}

#[test]
fn depth_has_a_limit() {
    let nested = |levels: usize| {
        let inner = json!({ "url": "u", "valueCode": "c" });
        let wrap = |inner, _| json!({ "url": "u", "extension": [inner] });
        let extension: Value = (0..levels).fold(inner, wrap);
        json!({ "resourceType": "Slot", "extension": [extension] })
    };
    let fits = (DEPTH_MAX - 3) / 2;
    assert_eq!(fault(&nested(fits)), None);
    assert!(fault(&nested(fits + 1)).unwrap().ends_with("is more than 32 levels deep"));
    assert!(fault(&nested(1_000)).is_some());
}

#[test]
fn every_name_occurs_once_in_its_type() {
    fn judge(shape: &'static Shape, seen: &mut Vec<*const Shape>) {
        if seen.contains(&std::ptr::from_ref(shape)) {
            return;
        }
        seen.push(shape);
        let mut names: Vec<&str> = shape.elements().map(|element| element.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        for element in shape.elements() {
            assert!(element.choice.is_none_or(|choice| element.name.starts_with(choice)));
            if let ElementKind::Complex(inner) = element.kind {
                judge(inner, seen);
            }
        }
    }
    let mut seen = Vec::new();
    table::RESOURCES.iter().for_each(|(_, shape)| judge(shape, &mut seen));
    assert!(seen.len() > 40);
}
