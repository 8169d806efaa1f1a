pm.collectionVariables.set("patient", pm.response.json().entry[0].resource.id);
