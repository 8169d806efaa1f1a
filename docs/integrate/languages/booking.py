"""Books the earliest free slot for an invented patient, reads the appointment and cancels it.

python3 booking.py lab.json, with the line that `spine-proxy lab` prints in lab.json. Needs Python 3.9 or later.
"""

import base64
import datetime
import http.client
import json
import ssl
import sys
import time
import urllib.parse
import uuid

lab = json.load(open(sys.argv[1]))
consumer, practice = lab["consumers"][0], lab["practices"][0]
patient = next(one for one in lab["patients"] if one["registration"] == "registered")
ODS = "https://fhir.nhs.uk/Id/ods-organization-code"
PROFILE = "https://fhir.nhs.uk/STU3/StructureDefinition/"

tls = ssl.create_default_context(cafile=lab["authority"])
tls.load_cert_chain(consumer["certificate"], consumer["key"])
proxy = http.client.HTTPSConnection(urllib.parse.urlsplit(lab["proxy"]["url"]).netloc, context=tls, timeout=45)


def token(scope):
    now = int(time.time())
    claims = {
        "iss": "https://booking.example.nhs.uk",
        "sub": "1",
        "aud": practice["root"],
        "iat": now,
        "exp": now + 300,
        "reason_for_request": "directcare",
        "requested_scope": scope,
        "requesting_device": {
            "resourceType": "Device",
            "identifier": [{"system": "https://booking.example.nhs.uk/Id/device", "value": "1"}],
            "model": "Booking",
            "version": "1",
        },
        "requesting_organization": {
            "resourceType": "Organization",
            "identifier": [{"system": ODS, "value": consumer["ods"]}],
            "name": "Invented hub",
        },
        "requesting_practitioner": {
            "resourceType": "Practitioner",
            "id": "1",
            "identifier": [
                {"system": "https://fhir.nhs.uk/Id/sds-user-id", "value": "UNK"},
                {"system": "https://fhir.nhs.uk/Id/sds-role-profile-id", "value": "UNK"},
                {"system": "https://booking.example.nhs.uk/Id/user", "value": "1"},
            ],
            "name": [{"family": "Invented", "given": ["User"]}],
        },
    }
    parts = ['{"alg":"none","typ":"JWT"}', json.dumps(claims)]
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts) + "."


def send(method, path, interaction, scope, body=None, headers={}):
    # The target is one slash, the service root with its https://, and the path: http.client sends it as it is.
    proxy.request(method, f"/{practice['root']}{path}", None if body is None else json.dumps(body), {
        "Ssp-TraceID": str(uuid.uuid4()),
        "Ssp-From": consumer["asid"],
        "Ssp-To": practice["asid"],
        "Ssp-InteractionID": f"urn:nhs:names:services:gpconnect:fhir:rest:{interaction}",
        "Authorization": f"Bearer {token(scope)}",
        "Accept": "application/fhir+json",
        "Content-Type": "application/fhir+json",
        **headers,
    })
    answer = proxy.getresponse()
    text = answer.read()
    print(method, path.split("?")[0], answer.status)
    if answer.status >= 300:
        sys.exit(text.decode())
    return json.loads(text), answer.headers["ETag"]


def resources(bundle, kind):
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


number = f"https://fhir.nhs.uk/Id/nhs-number%7C{patient['nhs_number']}"
found, _ = send("GET", f"/Patient?identifier={number}", "search:patient-1", "patient/*.read")
patient_id = resources(found, "Patient")[0]["id"]

# From tomorrow on, for at most fourteen days.
first = datetime.date.today() + datetime.timedelta(days=1)
last = first + datetime.timedelta(days=13)
query = f"status=free&start=ge{first}&end=le{last}&_include=Slot:schedule&searchFilter={ODS}%7C{consumer['ods']}"
found, _ = send("GET", f"/Slot?{query}", "search:slot-1", "organization/*.read")
slot = min(resources(found, "Slot"), key=lambda slot: datetime.datetime.fromisoformat(slot["start"]))
schedule = next(one for one in resources(found, "Schedule") if slot["schedule"]["reference"] == f"Schedule/{one['id']}")
location = next(actor for actor in schedule["actor"] if actor["reference"].startswith("Location/"))

booked, _ = send("POST", "/Appointment", "create:appointment-1", "patient/*.write", {
    "resourceType": "Appointment",
    "meta": {"profile": [PROFILE + "GPConnect-Appointment-1"]},
    "contained": [{
        "resourceType": "Organization",
        "id": "1",
        "meta": {"profile": [PROFILE + "CareConnect-GPC-Organization-1"]},
        "identifier": [{"system": ODS, "value": consumer["ods"]}],
        "name": "Invented hub",
        "telecom": [{"system": "phone", "value": "0300 000 0000"}],
    }],
    "extension": [{
        "url": PROFILE + "Extension-GPConnect-BookingOrganisation-1",
        "valueReference": {"reference": "#1"},
    }],
    "status": "booked",
    "description": "Invented appointment",
    "start": slot["start"],
    "end": slot["end"],
    "slot": [{"reference": f"Slot/{slot['id']}"}],
    "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    "participant": [
        {"actor": {"reference": f"Patient/{patient_id}"}, "status": "accepted"},
        {"actor": {"reference": location["reference"]}, "status": "accepted"},
    ],
})

path = f"/Appointment/{booked['id']}"
appointment, version = send("GET", path, "read:appointment-1", "patient/*.read")
appointment["status"] = "cancelled"
reason = PROFILE + "Extension-GPConnect-AppointmentCancellationReason-1"
appointment["extension"].append({"url": reason, "valueString": "Invented reason"})
cancelled, _ = send("PUT", path, "cancel:appointment-1", "patient/*.write", appointment, {"If-Match": version})
print("appointment", cancelled["id"], cancelled["status"])
