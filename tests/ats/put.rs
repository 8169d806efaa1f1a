//! A PUT of an appointment: as it usually is, and with something otherwise.

use serde_json::Value;

use super::case::{Expect, Given, Row, ok, row};
use super::request::{Request, ask};
use super::resources::with;
use super::rig::Scene;

/// What an appointment that is booked is put back as.
#[derive(Clone, Copy)]
pub(super) struct Put {
    /// The interaction, without what all have in common.
    pub(super) interaction: &'static str,
    pub(super) usual: fn(&Value) -> Value,
}

/// An appointment comes back, with its version.
pub(super) fn done() -> Expect {
    ok().kind("Appointment").etag().no_store()
}

impl Put {
    pub(super) fn send(self, scene: &Scene, body: Value) -> Request {
        ask(self.interaction, format!("/Appointment/{}", scene.id())).resource(body)
    }

    pub(super) fn usual(self, scene: &Scene) -> Request {
        self.send(scene, (self.usual)(&scene.booked))
    }

    /// The usual one, changed besides.
    pub(super) fn changed(
        self,
        name: &'static str,
        change: impl Fn(Value, &Scene) -> Value + 'static,
        expect: Expect,
    ) -> Row {
        let request =
            move |scene: &Scene| self.send(scene, change((self.usual)(&scene.booked), scene));
        row(name, Given::Booked, request, expect)
    }

    pub(super) fn having(self, place: &'static str, value: Value, expect: Expect) -> Row {
        self.changed(place, move |one, _| with(one, place, value.clone()), expect)
    }

    /// The usual one, asked for otherwise.
    pub(super) fn asked(
        self,
        name: &'static str,
        change: impl Fn(Request, &Scene) -> Request + 'static,
        expect: Expect,
    ) -> Row {
        row(name, Given::Booked, move |scene| change(self.usual(scene), scene), expect)
    }
}
