import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Four cases that a booking system's own tests should have; put your own client in the place of Booking. */
class BookingTest {
    static Lab lab;
    static Booking client;

    @BeforeAll
    static void start() throws Exception {
        lab = new Lab();
        client = new Booking(lab.description);
    }

    @AfterAll
    static void stop() throws Exception {
        lab.close();
    }

    static String book() throws Exception {
        return client.book(lab.member("patients", "nhs_number"));
    }

    @Test
    void aBookingReachesThePractice() throws Exception {
        int before = lab.appointments();
        book();
        assertEquals(before + 1, lab.appointments());
    }

    @Test
    void aBookingCanBeCancelled() throws Exception {
        assertEquals("cancelled", client.cancel(book()));
    }

    @Test
    void aPracticeThatIsOutOfOrderBooksNothing() throws Exception {
        int before = lab.appointments();
        lab.fail("POST", "status=503");
        var failure = assertThrows(IllegalStateException.class, BookingTest::book);
        assertTrue(failure.getMessage().startsWith("503 "), failure.getMessage());
        assertEquals(before, lab.appointments());
        book();
    }

    @Test
    void aBookingWhoseOutcomeIsUnknownMayHaveBeenMade() throws Exception {
        int before = lab.appointments();
        lab.fail("POST", "reset-after");
        var failure = assertThrows(IllegalStateException.class, BookingTest::book);
        assertTrue(failure.getMessage().startsWith("502 "), failure.getMessage());
        assertEquals(before + 1, lab.appointments());
    }
}
