// Tasks from a JVM, and what comes of them: kafka-clients and Jackson, nothing of Parallax. Until Ctrl-C.
//   java -cp 'libs/*' Consumer.java localhost:9092 summarizer 3
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class Consumer {
    static final ObjectMapper JSON = new ObjectMapper();
    static final String PREFIX = System.getenv().getOrDefault("PREFIX", "parallax.");

    public static void main(String[] args) throws Exception {
        String servers = args[0], agent = args[1];
        submit(servers, agent, Integer.parseInt(args[2]));
        // Without read_committed a result may be seen that never counted. A service keeps one group id for its life.
        Properties options = new Properties();
        options.putAll(Map.of(
            "bootstrap.servers", servers,
            "group.id", "jvm-example-" + UUID.randomUUID(),
            "isolation.level", "read_committed",
            "auto.offset.reset", "earliest",
            "key.deserializer", StringDeserializer.class.getName(),
            "value.deserializer", StringDeserializer.class.getName()));
        KafkaConsumer<String, String> consumer = new KafkaConsumer<>(options);
        Thread reader = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.wakeup();
            try {
                reader.join();
            } catch (InterruptedException ended) {
                // the JVM ends in any case
            }
        }));
        try (consumer) {
            consumer.subscribe(List.of(PREFIX + "results", PREFIX + "events", PREFIX + "anomalies"));
            while (true)
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofSeconds(1)))
                    if (record.value() != null) show(record.topic().substring(PREFIX.length()), JSON.readTree(record.value()));
        } catch (WakeupException asked) {
            // Ctrl-C or SIGTERM
        }
    }

    /** The producer is idempotent by default. The agent's id as the key saves a hop; an id sent twice is one task. */
    static void submit(String servers, String agent, int count) throws Exception {
        String text = StringSerializer.class.getName();
        Map<String, Object> options = Map.of("bootstrap.servers", servers, "key.serializer", text, "value.serializer", text);
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(options)) {
            for (int n = 0; n < count; n++) {
                String id = UUID.randomUUID().toString();
                Map<String, Object> task = Map.of(
                    "id", id, "type", "agent", "target", agent,
                    "payload", Map.of("text", "a story from the JVM, part " + n),
                    "metadata", Map.of("expiresIn", 600_000));
                producer.send(new ProducerRecord<>(PREFIX + "tasks", agent, JSON.writeValueAsString(task))).get();
                System.out.println("task " + id);
            }
        }
    }

    static void show(String topic, JsonNode value) {
        JsonNode error = value.get("error"), data = value.path("data");
        System.out.println(switch (topic) {
            case "results" -> "result " + value.get("taskId").asText() + " " + value.get("status").asText() + " "
                + (error == null ? value.get("confidence") + " " + value.get("result") : error.get("code").asText());
            case "events" -> "event " + value.get("type").asText() + " " + data.path("taskId").asText(data.path("agentId").asText());
            default -> "anomaly " + value.get("type").asText() + " " + value.get("state").asText() + " "
                + value.get("severity").asText() + " " + value.get("agentId").asText();
        });
    }
}
