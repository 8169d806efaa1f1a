import java.io.BufferedReader;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.concurrent.TimeUnit;

/**
 * A running lab, and its control interface.
 *
 * Needs the program spine-proxy with the feature lab on the PATH, or its path in SPINE_PROXY.
 */
class Lab implements AutoCloseable {
    final String description;
    private final Process process;
    private final HttpClient client = HttpClient.newHttpClient();

    Lab() throws IOException {
        String program = System.getenv().getOrDefault("SPINE_PROXY", "spine-proxy");
        process = new ProcessBuilder(program, "lab").redirectError(ProcessBuilder.Redirect.INHERIT).start();
        BufferedReader output = process.inputReader();
        description = output.readLine();
        if (description == null) {
            throw new IOException("the lab did not start");
        }
    }

    String member(String... names) {
        return Booking.member(description, names);
    }

    /** Asks the control interface of the simulated practices, and returns the answer, which is JSON. */
    String control(String method, String path, String body) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(member("simulator", "url") + "/" + path))
            .method(method, BodyPublishers.ofString(body)).build();
        var answer = client.send(request, BodyHandlers.ofString());
        if (answer.statusCode() != 200) {
            throw new IllegalStateException(answer.statusCode() + " " + answer.body());
        }
        return answer.body();
    }

    /** Makes the next request of a method at the first practice fail, with the words of docs/test/simulator.md. */
    void fail(String method, String faults) throws Exception {
        String script = "{\"times\": 1, \"methods\": [\"%s\"], \"faults\": \"%s\"}".formatted(method, faults);
        control("POST", "scripts/" + member("practices", "ods"), script);
    }

    /** Returns the number of appointments that the first practice has, cancelled ones too. */
    int appointments() throws Exception {
        String all = control("GET", "bookings?ods=" + member("practices", "ods"), "");
        return all.split("\"resourceType\":\"Appointment\"", -1).length - 1;
    }

    @Override
    public void close() throws Exception {
        process.destroy();
        if (!process.waitFor(20, TimeUnit.SECONDS)) {
            process.destroyForcibly();
        }
    }
}
