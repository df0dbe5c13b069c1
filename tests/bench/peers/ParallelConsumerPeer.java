import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.vertx.VertxParallelEoSStreamProcessor;
import io.vertx.core.Future;
import io.vertx.core.Promise;
import io.vertx.core.Vertx;
import io.vertx.core.VertxOptions;
import io.vertx.core.buffer.Buffer;
import io.vertx.core.json.JsonObject;
import io.vertx.ext.web.client.HttpResponse;
import io.vertx.ext.web.client.WebClient;
import io.vertx.ext.web.client.WebClientOptions;
import java.net.URI;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Confluent Parallel Consumer with Vert.x: calls an agent for each task and produces one result. At least once.
 *
 * <p>Arguments: BOOTSTRAP PREFIX ENDPOINT KEY|UNORDERED CONCURRENCY LINGER_MS. Prints "ready", then runs until it is killed.
 *
 * <p>Settings that are not defaults, and why: two event loops, which took the least CPU of 1, 2 and 4 on two cores; as many
 * connections as calls in flight; the producer lingers as the floor's does. A record is complete once its result is
 * acknowledged. Offsets are committed every 5 s, the default.
 */
public final class ParallelConsumerPeer {
    private final KafkaProducer<byte[], byte[]> producer;
    private final WebClient client;
    private final URI endpoint;
    private final String results;

    private ParallelConsumerPeer(KafkaProducer<byte[], byte[]> producer, WebClient client, URI endpoint, String results) {
        this.producer = producer;
        this.client = client;
        this.endpoint = endpoint;
        this.results = results;
    }

    public static void main(String[] args) {
        String bootstrap = args[0];
        String prefix = args[1];
        int concurrency = Integer.parseInt(args[4]);
        KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(
                Map.of("bootstrap.servers", bootstrap, "group.id", prefix + "peer", "auto.offset.reset", "earliest",
                        "session.timeout.ms", "60000",  // the bench stops this process while it produces
                        "enable.auto.commit", "false"),
                new ByteArrayDeserializer(), new ByteArrayDeserializer());
        KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(
                Map.of("bootstrap.servers", bootstrap, "acks", "all", "linger.ms", args[5]),
                new ByteArraySerializer(), new ByteArraySerializer());
        Vertx vertx = Vertx.vertx(new VertxOptions().setEventLoopPoolSize(2));
        WebClient client = WebClient.create(vertx, new WebClientOptions().setMaxPoolSize(concurrency));
        ParallelConsumerOptions<byte[], byte[]> options = ParallelConsumerOptions.<byte[], byte[]>builder()
                .consumer(consumer)
                .ordering(ProcessingOrder.valueOf(args[3]))
                .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
                .maxConcurrency(concurrency)
                .build();
        ParallelConsumerPeer peer = new ParallelConsumerPeer(producer, client, URI.create(args[2]), prefix + "results");
        var processor = new VertxParallelEoSStreamProcessor<byte[], byte[]>(vertx, client, options);
        processor.subscribe(List.of(prefix + "tasks"));
        processor.vertxFuture(context -> peer.process(context.value()));
        System.out.println("ready");
    }

    private Future<?> process(byte[] value) {
        JsonObject task = new JsonObject(Buffer.buffer(value));
        return client.post(endpoint.getPort(), endpoint.getHost(), "/analyze")
                .sendBuffer(task.getJsonObject("payload").toBuffer())
                .compose(response -> produce(task.getString("id"), response));
    }

    private Future<Void> produce(String taskId, HttpResponse<Buffer> response) {
        if (response.statusCode() != 200) {
            return Future.failedFuture("the agent answered " + response.statusCode());  // the record is tried again
        }
        JsonObject result = response.bodyAsJsonObject().put("taskId", taskId).put("status", "success");
        Promise<Void> acknowledged = Promise.promise();
        ProducerRecord<byte[], byte[]> record =
                new ProducerRecord<>(results, taskId.getBytes(), result.toBuffer().getBytes());
        producer.send(record, (metadata, error) -> {
            if (error == null) {
                acknowledged.complete();
            } else {
                acknowledged.fail(error);
            }
        });
        return acknowledged.future();
    }
}
