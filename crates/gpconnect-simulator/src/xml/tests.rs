use std::time::{Duration, Instant};

use serde_json::json;

use super::super::json::read_json;
use super::super::shape::fault;
use super::super::stage::{Stage, booking_of};
use super::*;

fn profile(name: &str) -> String {
    super::super::fhir::profile(name)
}

fn appointment() -> Value {
    json!({
        "resourceType": "Appointment",
        "id": "9",
        "meta": { "versionId": "2", "lastUpdated": "2026-03-25T10:30:00.5+00:00", "profile": [profile("GPConnect-Appointment-1")] },
        "language": "en",
        "text": { "status": "generated", "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\">A &amp; B<br/>\n<b title='x'>C</b></div>" },
        "contained": [{
            "resourceType": "Organization",
            "id": "1",
            "identifier": [{ "system": "https://fhir.nhs.uk/Id/ods-organization-code", "value": "A00001" }],
            "name": "Booking \"Org\" <A & B>",
            "telecom": [{ "system": "phone", "value": "0300 303 5678", "rank": 1 }],
        }],
        "extension": [
            { "url": profile("Extension-GPConnect-BookingOrganisation-1"), "valueReference": { "reference": "#1" } },
            { "url": profile("Extension-GPConnect-DeliveryChannel-2"), "valueCode": "In-person" },
            { "id": "e", "url": profile("Extension-GPConnect-PractitionerRole-1"), "valueCodeableConcept": { "coding": [{ "code": "R0260", "userSelected": false }] } },
        ],
        "status": "booked",
        "serviceType": [{ "text": "one" }, { "text": "two" }],
        "description": "line one\nline\ttwo\r\n é 𝄞",
        "start": "2026-04-01T10:00:00+01:00",
        "end": "2026-04-01T10:10:00+01:00",
        "minutesDuration": 10,
        "slot": [{ "reference": "Slot/1" }, { "reference": "Slot/2" }],
        "created": "2026-03-25",
        "participant": [
            { "type": [{ "text": "t" }], "actor": { "reference": "Patient/1", "identifier": { "assigner": { "display": "d" } } }, "status": "accepted" },
            { "id": "p", "actor": { "reference": "Location/1" }, "status": "accepted", "modifierExtension": [{ "url": "u", "valueDecimal": 1.25 }] },
        ],
    })
}

fn patient() -> Value {
    let reason = json!({ "extension": [{ "url": "u", "valueCode": "unknown" }] });
    let registration = |inner: Value| json!({ "url": "registration", "extension": [inner] });
    json!({
        "resourceType": "Patient",
        "_id": { "id": "x" },
        "extension": [registration(registration(json!({
            "url": "period", "valuePeriod": { "start": "2020", "_end": reason },
        })))],
        "active": true,
        "name": [{ "family": "Example", "given": ["Anna", null, "Maria"], "_given": [null, reason, { "id": "g" }] }],
        "birthDate": "1980-02-29",
        "_birthDate": { "extension": [{ "url": "time", "valueDateTime": "1980-02-29T01:02:03Z" }] },
        "_gender": reason,
        "deceasedBoolean": false,
        "address": [{ "line": ["1 Example Street", "Exampleton"], "_line": [reason, null] }],
        "multipleBirthInteger": -1,
        "photo": [{ "contentType": "image/png", "data": "QUJD" }],
        "contact": [{ "name": { "text": "B" }, "period": { "start": "2020-01" } }],
        "communication": [{ "language": { "text": "English" }, "preferred": true }],
        "link": [{ "other": { "reference": "Patient/2" }, "type": "seealso" }],
    })
}

fn samples() -> Vec<Value> {
    let outcome = json!({
        "resourceType": "OperationOutcome",
        "issue": [{ "severity": "error", "code": "invalid", "details": { "coding": [{ "code": "BAD_REQUEST" }] }, "diagnostics": "<why> & \"how\" 'ever'", "expression": ["a", "b"] }],
    });
    let bundle = json!({
        "resourceType": "Bundle",
        "type": "searchset",
        "total": 3,
        "link": [{ "relation": "self", "url": "https://a.example/?x=1&y=2" }],
        "entry": [
            { "fullUrl": "urn:uuid:1", "resource": appointment(), "search": { "mode": "match", "score": 0.0000001 } },
            { "resource": patient() },
            { "resource": { "resourceType": "Location", "position": { "longitude": -1.5, "latitude": 53.25, "altitude": 1e20 } } },
            { "resource": { "resourceType": "Slot" }, "response": { "status": "200", "outcome": outcome } },
        ],
    });
    let parameters = json!({
        "resourceType": "Parameters",
        "parameter": [
            { "name": "registerPatient", "resource": patient() },
            { "name": "more", "part": [{ "name": "flag", "valueBoolean": true }, { "name": "n", "valueInteger": 0 }] },
        ],
    });
    vec![appointment(), patient(), bundle, outcome, parameters]
}

#[test]
fn a_resource_reads_back_as_it_was_written() {
    for sample in samples() {
        assert_eq!(fault(&sample), None);
        let text = write(&sample);
        assert_eq!(read(text.as_bytes()).as_ref(), Ok(&sample), "{text}");
        assert_eq!(read_json(sample.to_string().as_bytes()), Ok(sample));
    }
}

#[test]
fn every_response_is_stu3_and_can_be_written_in_xml() {
    let stage = Stage::new();
    let slots = stage.free_slots();
    let booking = booking_of(&[&slots[0]], "1");
    let responses = [
        stage.book(&booking).2,
        stage.book(&booking).2,
        stage.get("read:metadata-1", "/metadata").2,
        stage.retrieve("1").2,
        stage.get("read:patient-1", "/Patient/1").2,
        stage.get("read:practitioner-1", "/Practitioner/1").2,
        stage.get("read:organization-1", "/Organization/1").2,
        stage.get("read:location-1", "/Location/1").2,
        stage
            .get(
                "search:slot-1",
                "/Slot?status=free&start=ge2026-03-26&end=le2026-04-01&_include=Slot:schedule",
            )
            .2,
    ];
    for resource in responses.into_iter().chain([booking]).chain(slots) {
        assert_eq!(fault(&resource), None, "{resource}");
        assert_eq!(read(write(&resource).as_bytes()), Ok(resource));
    }
}

#[test]
fn elements_are_written_in_the_order_of_stu3() {
    let resource = json!({
        "resourceType": "Slot", "status": "free", "id": "1", "schedule": { "reference": "Schedule/1" },
        "extension": [{ "valueCode": "c", "url": "u", "id": "e" }], "_status": { "id": "s" }, "foo": 1,
    });
    let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Slot xmlns=\"http://hl7.org/fhir\">\
        <id value=\"1\"/><extension id=\"e\" url=\"u\"><valueCode value=\"c\"/></extension>\
        <schedule><reference value=\"Schedule/1\"/></schedule><status value=\"free\" id=\"s\"/></Slot>";
    assert_eq!(write(&resource), text);
}

#[test]
fn xml_in_other_styles_is_read() {
    let text = "\u{feff}<?xml version='1.0' encoding='utf-8' standalone='yes'?>
        <?xml-stylesheet href='a.xsl'?><!-- one -->
        <f:Patient xmlns:f='http://hl7.org/fhir' xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance'
            xsi:schemaLocation='http://hl7.org/fhir patient.xsd'>
          <f:text><f:status value='generated'></f:status>
            <div xmlns='http://www.w3.org/1999/xhtml'><p>a &lt;&#160;b</p><div>c</div></div></f:text>
          <f:active value = 'true' /><!-- two -->
          <f:name ><f:given value='A&amp;&quot;&#x41;&apos;&gt;'/><f:given id='g'><f:extension url='u'><f:valueInteger value='3'/></f:extension></f:given>
          <f:family value='  two
lines '/></f:name>
          <multipleBirthInteger xmlns='http://hl7.org/fhir' value='2'/>
        </f:Patient >
        <?end?> <!-- three -->\n";
    let resource = json!({
        "resourceType": "Patient",
        "text": { "status": "generated", "div": "<div xmlns='http://www.w3.org/1999/xhtml'><p>a &lt;&#160;b</p><div>c</div></div>" },
        "active": true,
        "name": [{
            "given": ["A&\"A'>", null],
            "_given": [null, { "id": "g", "extension": [{ "url": "u", "valueInteger": 3 }] }],
            "family": "  two lines ",
        }],
        "multipleBirthInteger": 2,
    });
    assert_eq!(read(text.as_bytes()), Ok(resource.clone()));
    assert_eq!(fault(&resource), None);
    assert_eq!(read(b"<Slot xmlns='http://hl7.org/fhir'/>"), Ok(json!({ "resourceType": "Slot" })));
}

/// Returns a document of a patient with this content.
fn patient_with(inner: &str) -> String {
    format!("<Patient xmlns=\"http://hl7.org/fhir\">{inner}</Patient>")
}

#[test]
fn invalid_elements_are_refused_with_their_path() {
    for (inner, message) in [
        ("<foo value='secret'/>", "Patient.foo is not known"),
        ("<name><foo/></name>", "Patient.name[0].foo is not known"),
        ("<name foo='secret'/>", "Patient.name[0].foo is not known"),
        ("<name family='secret'/>", "Patient.name[0].family is not known"),
        ("<active value='true' foo='secret'/>", "Patient.active.foo is not known"),
        (
            "<active value='true'><value value='secret'/></active>",
            "Patient.active.value is not known",
        ),
        ("<active value='secret'/>", "Patient.active is not a boolean"),
        ("<multipleBirthInteger value='secret'/>", "Patient.multipleBirthInteger is not a number"),
        ("<active value='true'/><active value='true'/>", "Patient.active is given twice"),
        ("<active value='true'/><active id='a'/>", "Patient.active is given twice"),
        ("<active/>", "Patient.active is empty"),
        ("<active value=''/>", "Patient.active is empty"),
        ("<name/>", "Patient.name[0] is empty"),
        ("<name><given value='A'/><given/></name>", "Patient.name[0].given[1] is empty"),
        ("<name>secret</name>", "Patient.name[0] has text outside of a value"),
        ("<name><![CDATA[secret]]></name>", "Patient.name[0] has text outside of a value"),
        ("&#32;", "Patient has text outside of a value"),
        ("<name xmlns='urn:other'/>", "Patient.name is not in the namespace http://hl7.org/fhir"),
        ("<name xmlns=''/>", "Patient.name is not in the namespace http://hl7.org/fhir"),
        ("<x:name/>", "Patient.name is not in the namespace http://hl7.org/fhir"),
        ("<div xmlns='http://www.w3.org/1999/xhtml'/>", "Patient.div is not known"),
        ("<contained/>", "Patient.contained[0] is empty"),
        ("<contained><Slot/><Slot/></contained>", "Patient.contained[0] is not one resource"),
        ("<contained><Secret/></contained>", "Patient.contained[0] is of an unknown type"),
        ("<contained id='a'><Slot/></contained>", "Patient.contained[0] has an unknown attribute"),
        ("<resourceType value='Slot'/>", "Patient.resourceType is not known"),
        ("<text><div/></text>", "Patient.text.div is not exactly one div in the XHTML namespace"),
        ("<name a='1' a='2'/>", "Patient.name[0] is not well-formed XML"),
        ("<name id='<'/>", "Patient.name[0] is not well-formed XML"),
        ("<name id='a'foo='b'/>", "Patient.name[0] is not well-formed XML"),
        ("<name id='&#1;'/>", "Patient.name[0] is not well-formed XML"),
        ("<name id=a/>", "Patient.name[0] is not well-formed XML"),
        ("<name><!-- a -- b --></name>", "Patient.name[0] is not well-formed XML"),
        ("<?xml version='1.0'?>", "Patient is not well-formed XML"),
        ("<name>", "Patient.name[0] is not well-formed XML"),
    ] {
        assert_eq!(read(patient_with(inner).as_bytes()), Err(message.to_owned()), "{inner}");
    }
}

#[test]
fn only_one_document_in_utf_8_is_read() {
    let utf16: Vec<u8> = "\u{feff}<Slot/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let slot = "<Slot xmlns='http://hl7.org/fhir'/>";
    for (bytes, message) in [
        (b"".to_vec(), "the body is not well-formed XML"),
        (b"{}".to_vec(), "the body has text outside of a value"),
        (utf16, "the body is not UTF-8"),
        (b"<Slot/>".to_vec(), "the body is not in the namespace http://hl7.org/fhir"),
        (
            b"<Slot xmlns='http://hl7.org/fhir/'/>".to_vec(),
            "the body is not in the namespace http://hl7.org/fhir",
        ),
        (b"<Secret xmlns='http://hl7.org/fhir'/>".to_vec(), "the body is of an unknown type"),
        (format!("{slot}{slot}").into(), "the body is not well-formed XML"),
        (format!("{slot}a").into(), "the body has text outside of a value"),
        (format!("{slot}\0").into(), "the body has a character that XML does not allow"),
        (format!(" <?xml version='1.0'?>{slot}").into(), "the body is not well-formed XML"),
        (format!("<?xml version='1.1'?>{slot}").into(), "the body is not XML 1.0 in UTF-8"),
        (
            format!("<?xml version='1.0' encoding='latin1'?>{slot}").into(),
            "the body is not XML 1.0 in UTF-8",
        ),
        (b"<Slot xmlns='http://hl7.org/fhir'>".to_vec(), "Slot is cut off"),
    ] {
        assert_eq!(read(&bytes), Err(message.to_owned()), "{}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn no_entity_is_expanded() {
    let doctype = "the body has a DOCTYPE, which is not allowed";
    let laughs: String = (1..10)
        .map(|n| format!("<!ENTITY l{n} '{}'>", format!("&l{};", n - 1).repeat(10)))
        .collect();
    for inner in [
        "",
        "[<!ENTITY a 'b'>]",
        "SYSTEM 'file:///etc/hostname'",
        &format!("[<!ENTITY l0 'ha'>{laughs}]"),
    ] {
        let text = format!("<!DOCTYPE Patient {inner}>{}", patient_with("<name id='&l9;'/>"));
        assert_eq!(read(text.as_bytes()), Err(doctype.to_owned()));
    }
    for inner in ["<name id='&a;'/>", "<name>&a;</name>", "<name id='&'/>", "<name id='&#xD800;'/>"]
    {
        assert!(read(patient_with(inner).as_bytes()).is_err(), "{inner}");
    }
}

#[test]
fn a_narrative_is_one_well_formed_div() {
    let div = |inner: &str| format!("<div xmlns=\"http://www.w3.org/1999/xhtml\">{inner}</div>");
    for good in [
        "",
        "a",
        "<p class=\"a\" xml:lang='en'>b</p>",
        "<br/><hr />",
        "&lt;&#xe9;",
        "<!-- a -->",
        "<![CDATA[<a>]]>",
        "a > b",
        "<div>a</div>",
    ] {
        assert_eq!(div_fault(&div(good)), None, "{good}");
    }
    assert_eq!(div_fault(&format!(" {}\n", div("a"))), None);
    for bad in [
        "<p>",
        "</p>",
        "<p></q>",
        "&nbsp;",
        "&",
        "&#0;",
        "a]]>b",
        "<1/>",
        "<p a='b'c='d'/>",
        "<p a/>",
        "<p a='<'/>",
        "<x:p/>",
        "<p x:a='b'/>",
        "<?pi?>",
        "<!DOCTYPE a>",
        "<p xmlns='urn:other'/>",
        "\u{1}",
        "<!-- a -- b -->",
        "</div><div>",
        "<p a='&b;'/>",
        "<p a='1' a='2'/>",
        "<p \u{e9}='1'/>",
    ] {
        assert!(div_fault(&div(bad)).is_some(), "{bad}");
        let resource = json!({ "resourceType": "Slot", "text": { "div": div(bad) } });
        let back = read(write(&resource).as_bytes()).unwrap();
        assert_eq!(fault(&back), None, "{back}");
    }
    for bad in ["", "a", "<div/>", "<p xmlns='http://www.w3.org/1999/xhtml'/>", "<!-- a -->"] {
        assert!(div_fault(bad).is_some(), "{bad}");
    }
    assert!(div_fault(&format!("{}a", div(""))).is_some());
    assert!(div_fault(&div("").repeat(2)).is_some());
    assert!(div_fault(&div(&"<p>".repeat(100_000))).is_some());
}

#[test]
fn even_an_invalid_resource_is_written_as_well_formed_xml() {
    let odd = json!({ "resourceType": "Patient", "active": "\u{0}\u{1}\u{fffe}<&\">'", "name": "x", "id": [],
        "contact": [null, 1, [], {}, { "name": 5 }], "contained": [{}, { "resourceType": "X" }],
        "multipleBirthInteger": { "a": 1 }, "_birthDate": 7, "address": [{ "line": [null, "a", {}] }] });
    let text = write(&odd);
    assert!(text.contains("value=\"\u{fffd}\u{fffd}\u{fffd}&lt;&amp;&quot;&gt;'\""), "{text}");
    assert!(quick_xml_accepts(&text), "{text}");
    for odd in [json!(null), json!([]), json!({}), json!({ "resourceType": "<a>" })] {
        assert_eq!(read(write(&odd).as_bytes()).unwrap()["resourceType"], "OperationOutcome");
    }
    let deep = (0..2_000).fold(json!({ "url": "u" }), |inner, _| json!({ "extension": [inner] }));
    assert!(quick_xml_accepts(&write(&json!({ "resourceType": "Slot", "extension": [deep] }))));
}

fn quick_xml_accepts(text: &str) -> bool {
    let mut reader = markup::reader(text);
    loop {
        match markup::next(&mut reader, FHIR) {
            Ok((_, Event::Eof)) => return true,
            Ok((_, Event::Start(start))) if markup::attributes(&start).is_err() => return false,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

#[test]
fn the_depth_limit_is_the_same_in_json_and_xml() {
    for levels in 1..40 {
        let part = |inner: Value, _| json!({ "name": "n", "part": [inner] });
        let parameters = |resource: Value| json!({ "name": "n", "resource": resource });
        for leaf in [
            json!({ "name": "n" }),
            json!({ "name": "n", "_name": { "id": "a" } }),
            json!({ "name": "n", "valueAddress": { "line": ["a"] } }),
            parameters(json!({ "resourceType": "Slot" })),
            parameters(
                json!({ "resourceType": "Patient", "name": [{ "given": ["a"], "_given": [{ "id": "a" }] }] }),
            ),
        ] {
            let part = (0..levels).fold(leaf, part);
            let whole = json!({ "resourceType": "Parameters", "parameter": [part] });
            let text = write(&whole);
            match fault(&whole) {
                None => assert_eq!(read(text.as_bytes()), Ok(whole)),
                Some(message) => {
                    assert!(message.ends_with("is more than 32 levels deep"), "{message}");
                    let back = read(text.as_bytes());
                    assert!(back.is_err() || back.is_ok_and(|back| back != whole));
                }
            }
        }
    }
}

#[test]
fn hostile_documents_are_refused_quickly() {
    let many = |count: usize, item: fn(usize) -> String| (0..count).map(item).collect::<String>();
    let attributes = many(200_000, |n| format!(" a{n}='1'"));
    let namespaces = many(200_000, |n| format!(" xmlns:a{n}='urn:{n}'"));
    let nested = many(1_000, |n| format!("<name xmlns:a{n}='urn:{n}'>"));
    let div = |inner: &str| {
        format!("<text><div xmlns='http://www.w3.org/1999/xhtml'>{inner}</div></text>")
    };
    let started = Instant::now();
    for (inner, why) in [
        (format!("<name{attributes}/>"), "has more than 16 attributes"),
        (format!("<name{namespaces}/>"), "is not well-formed XML"),
        (nested, "is not known"),
        ("<extension>".repeat(100_000), "is more than 32 levels deep"),
        ("<contained><Patient>".repeat(100_000), "is more than 32 levels deep"),
        ("<name><given value='a'/></name>".repeat(NODES_MAX), "has more than 50000 elements"),
        (div(&"<p>".repeat(100_000)), "is not well-formed XML"),
        (
            div(&format!("{}{}", "<p>".repeat(100_000), "</p>".repeat(100_000))),
            "is more than 32 levels deep",
        ),
        (div(&format!("<p{attributes}/>")), "has more than 16 attributes"),
        ("<".repeat(1_000_000), "is not known"),
        ("<!--".repeat(1_000_000), "is not well-formed XML"),
        ("<![CDATA[".repeat(1_000_000), "is not well-formed XML"),
        ("&".repeat(1_000_000), "is not well-formed XML"),
        (format!("<multipleBirthInteger value='{}'/>", "9".repeat(1_000_000)), "is not a number"),
    ] {
        let message = read(patient_with(&inner).as_bytes()).unwrap_err();
        assert!(message.ends_with(why), "{message}, not {why}");
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// Marsaglia's xorshift generator, with the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    /// Returns one of the documents with some random damage.
    fn mutated(&mut self, documents: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = documents[self.below(documents.len())].clone();
        let other = &documents[self.below(documents.len())];
        for _ in 0..=self.below(3) {
            let (at, to) = (self.below(bytes.len()), self.below(other.len()));
            match self.below(6) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 => bytes.insert(at, b"<>&'\"/ =]x0-{}[],:\\\n\0"[self.below(21)]),
                3 => drop(bytes.drain(at..(at + self.below(40)).min(bytes.len()))),
                4 => drop(bytes.splice(
                    at..at,
                    other[to..(to + self.below(80)).min(other.len())].iter().copied(),
                )),
                _ => bytes.truncate(bytes.len().max(1)),
            }
        }
        bytes
    }
}

#[test]
fn damaged_documents_are_read_consistently_or_refused() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut accepted = (0, 0);
    let documents: Vec<Vec<u8>> =
        samples().iter().map(|sample| write(sample).into_bytes()).collect();
    for _ in 0..4_000 {
        let bytes = random.mutated(&documents);
        if let Ok(resource) = read(&bytes) {
            accepted.0 += 1;
            assert!(fault(&resource).is_none_or(|message| message.contains(' ')));
            assert_eq!(read(write(&resource).as_bytes()), Ok(resource));
        }
    }
    let documents: Vec<Vec<u8>> =
        samples().iter().map(|sample| sample.to_string().into()).collect();
    for _ in 0..4_000 {
        let bytes = random.mutated(&documents);
        if let Ok(resource) = read_json(&bytes) {
            accepted.1 += 1;
            let text = write(&resource);
            assert!(quick_xml_accepts(&text), "{text}");
            if fault(&resource).is_none() {
                assert_eq!(read(text.as_bytes()), Ok(resource));
            }
        }
    }
    assert!(accepted.0 > 100 && accepted.1 > 100, "{accepted:?}");
}
