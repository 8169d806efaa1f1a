"""A lab for each test process, and a consumer to send requests with.

Needs the program `spine-proxy` with the feature `lab` on the PATH, or its path in SPINE_PROXY.
"""

import datetime
import http.client
import json
import os
import ssl
import subprocess
import urllib.parse
import urllib.request
import uuid

import pytest

PROGRAM = os.environ.get("SPINE_PROXY", "spine-proxy")
INTERACTION = "urn:nhs:names:services:gpconnect:fhir:rest:"


class Lab:
    """A running lab: its description, and what a test does with it."""

    def __init__(self, process):
        self.process = process
        self.about = json.loads(process.stdout.readline())

    def practice(self, number=0):
        return self.about["practices"][number]

    def consumer(self, name="hub"):
        return next(one for one in self.about["consumers"] if one["name"] == name)

    def simulator(self, path, method="GET", body=None):
        """Asks the control interface of the simulated practices."""
        data = None if body is None else json.dumps(body).encode()
        url = f"{self.about['simulator']['url']}/{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method)) as answer:
            return json.load(answer)

    def arrived(self, trace_id):
        """Returns the requests with this trace id that reached a practice."""
        requests = self.simulator("requests?last=100")
        named = lambda request: {name.lower(): value for name, value in request["headers"]}
        return [one for one in requests if named(one).get("ssp-traceid") == trace_id]

    def token(self, interaction, audience, consumer):
        command = [PROGRAM, "token", "--audience", audience, "--ods", consumer["ods"]]
        return subprocess.check_output(command + ["--interaction", interaction], text=True).strip()

    def send(self, method, path, interaction, body=None, practice=None, audience=None, headers=None):
        """Sends a request as the hub does, and returns the status, the headers, the body and the trace id."""
        practice, consumer = practice or self.practice(), self.consumer()
        interaction, trace_id = INTERACTION + interaction, str(uuid.uuid4())
        token = self.token(interaction, audience or practice["root"], consumer)
        tls = ssl.create_default_context(cafile=self.about["authority"])
        tls.load_cert_chain(consumer["certificate"], consumer["key"])
        port = urllib.parse.urlsplit(self.about["proxy"]["url"]).port
        connection = http.client.HTTPSConnection("localhost", port, context=tls, timeout=20)
        all_headers = {
            "Authorization": f"Bearer {token}",
            "Ssp-TraceID": trace_id,
            "Ssp-From": consumer["asid"],
            "Ssp-To": practice["asid"],
            "Ssp-InteractionID": interaction,
            "Accept": "application/fhir+json",
            "Content-Type": "application/fhir+json",
            **(headers or {}),
        }
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, f"/{practice['root']}{path}", data, all_headers)
        answer = connection.getresponse()
        return Answer(answer, trace_id)

    def patient(self, practice=None):
        """Returns the id of the first patient that is registered at the practice."""
        number = next(
            one["nhs_number"] for one in self.about["patients"] if one["registration"] == "registered"
        )
        system = "https://fhir.nhs.uk/Id/nhs-number"
        found = self.send("GET", f"/Patient?identifier={system}%7C{number}", "search:patient-1", practice=practice)
        return found.json()["entry"][0]["resource"]["id"]

    def free_slot(self, practice=None):
        """Returns the first free slot of the next fortnight, and its location as `Location/1`."""
        today = datetime.date.today()
        until = today + datetime.timedelta(days=13)
        found = self.send(
            "GET",
            f"/Slot?status=free&start=ge{today}&end=le{until}&_include=Slot:schedule"
            "&_include:recurse=Schedule:actor:Location",
            "search:slot-1",
            practice=practice,
        )
        entries = [entry["resource"] for entry in found.json()["entry"]]
        known = {f"{one['resourceType']}/{one['id']}": one for one in entries}
        slot = next(one for one in entries if one["resourceType"] == "Slot")
        schedule = known[slot["schedule"]["reference"]]
        actors = [actor["reference"] for actor in schedule["actor"]]
        return slot, next(actor for actor in actors if actor.startswith("Location/"))

    def booking(self, practice=None):
        """Returns the smallest appointment that a practice books."""
        slot, location = self.free_slot(practice)
        profile = "https://fhir.nhs.uk/STU3/StructureDefinition/"
        ods = "https://fhir.nhs.uk/Id/ods-organization-code"
        return {
            "resourceType": "Appointment",
            "meta": {"profile": [profile + "GPConnect-Appointment-1"]},
            "contained": [{
                "resourceType": "Organization",
                "id": "1",
                "meta": {"profile": [profile + "CareConnect-GPC-Organization-1"]},
                "identifier": [{"system": ods, "value": self.consumer()["ods"]}],
                "name": "Invented hub",
                "telecom": [{"system": "phone", "value": "01234567890"}],
            }],
            "extension": [{
                "url": profile + "Extension-GPConnect-BookingOrganisation-1",
                "valueReference": {"reference": "#1"},
            }],
            "status": "booked",
            "description": "Invented appointment",
            "start": slot["start"],
            "end": slot["end"],
            "slot": [{"reference": f"Slot/{slot['id']}"}],
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "participant": [
                {"actor": {"reference": f"Patient/{self.patient(practice)}"}, "status": "accepted"},
                {"actor": {"reference": location}, "status": "accepted"},
            ],
        }

    def booked(self, practice=None):
        """Returns the number of appointments that a practice has."""
        practice = practice or self.practice()
        return len(self.simulator(f"bookings?ods={practice['ods']}"))


class Answer:
    """An answer whose body is read when it is needed."""

    def __init__(self, response, trace_id):
        self.response, self.trace_id = response, trace_id
        self.status, self.headers = response.status, response.headers

    def json(self):
        return json.loads(self.response.read())

    def refusal(self):
        """Returns the token with which the proxy itself refused, or None."""
        parts = self.headers.get("Proxy-Status", "").split('details="')
        return parts[1].rstrip('"') if len(parts) > 1 else None


@pytest.fixture(scope="session")
def lab():
    process = subprocess.Popen([PROGRAM, "lab"], stdout=subprocess.PIPE, text=True)
    yield Lab(process)
    process.terminate()
    assert process.wait(timeout=20) == 0
