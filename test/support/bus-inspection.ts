/** A look at a message bus from outside, beside its port: its queues, what they hold, and what went over it. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { fromBinary } from "@bufbuild/protobuf";
import Database from "better-sqlite3";
import { separated } from "../../lib/rpc/frame-groups.ts";
import { CHUNK_BYTES } from "../../lib/rpc/frames.ts";
import { chunkContent } from "../../lib/rpc/chunk-compression.ts";
import { FrameSchema, type Chunk } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import type { RabbitMq, VirtualHost } from "./rabbitmq.ts";

/** One queue. */
export interface InspectedQueue {
  readonly name: string;
  /** Whether it goes by itself when nobody uses it. */
  readonly expires: boolean;
}

/** See the file comment. */
export interface BusInspection {
  /** All queues. */
  queues(): Promise<readonly InspectedQueue[]>;
  /** How many bytes of messages it holds, or held {@link BusInspection.figuresAgeMs} ago. */
  heldBytes(): Promise<number>;
  /** How old a figure may be: RabbitMQ takes it every five seconds. */
  readonly figuresAgeMs: number;
  /** Connections of anybody but this inspection. */
  connections(): Promise<number>;
  /** From now on everything that is published is kept for {@link BusInspection.passed}. */
  listen(): Promise<void>;
  /** What was published since {@link BusInspection.listen}, chunks also as they were before they were compressed, and the bus's files. */
  passed(): Promise<readonly Buffer[]>;
  close(): Promise<void>;
}

/** The queues of runs: neither those of services nor those that hold the answers to one process. */
export function runQueuesAmong(queues: readonly InspectedQueue[]): string[] {
  return queues.map(({ name }) => name).filter((name) => !/-in(?:-|$)/.test(name) && !name.startsWith("dead-letter"));
}

/**
 * What an exchange that was stopped must not leave: queues of runs, and queues of one process that would stay for ever. Those of a
 * process that was killed go by themselves after a while.
 */
export function leftOverQueues(queues: readonly InspectedQueue[]): string[] {
  const lasting = queues.filter(({ name, expires }) => /-in-/.test(name) && !expires).map(({ name }) => name);
  return [...runQueuesAmong(queues), ...lasting];
}

/** Looks into the file of an embedded bus. */
export function inspectEmbeddedBus(file: string): BusInspection {
  const files = (): string[] => ["", "-wal"].map((suffix) => `${file}${suffix}`).filter((path) => existsSync(path));
  const query = <Row>(sql: string): Row[] => {
    const bus = new Database(file, { readonly: true });
    try {
      return bus.prepare<[], Row>(sql).all();
    } finally {
      bus.close();
    }
  };
  return {
    queues: async () =>
      query<{ name: string; expires: number }>("SELECT name, expires_ms IS NOT NULL AS expires FROM queue").map(
        ({ name, expires }) => ({ name, expires: expires === 1 }),
      ),
    figuresAgeMs: 0,
    heldBytes: async () => files().reduce((sum, path) => sum + statSync(path).size, 0),
    connections: async () => query<{ n: number }>("SELECT count(*) AS n FROM instance")[0]?.n ?? 0,
    listen: async () => {
      const bus = new Database(file);
      try {
        bus.pragma("busy_timeout = 10000");
        // A trigger sees what every process publishes.
        bus.exec(`CREATE TABLE published (bytes BLOB NOT NULL);
          CREATE TRIGGER keep_published AFTER INSERT ON body BEGIN INSERT INTO published VALUES (NEW.bytes); END`);
      } finally {
        bus.close();
      }
    },
    passed: async () => [
      ...files().map((path) => readFileSync(path)),
      ...query<{ bytes: Buffer }>("SELECT bytes FROM published").flatMap(({ bytes }) => asPublished(bytes)),
    ],
    close: async () => undefined,
  };
}

/** Asks a RabbitMQ's management API about one virtual host. */
export function inspectRabbitMq(server: RabbitMq, vhost: VirtualHost): BusInspection {
  const passed: Buffer[] = [];
  let listening: { close(): Promise<unknown> } | undefined;
  const get = <Answer>(path: string): Promise<Answer> => server.api("GET", path) as Promise<Answer>;
  return {
    queues: async () => {
      const queues = await get<readonly { name: string; exclusive: unknown; arguments: object }[]>(
        `/queues/${vhost.name}?disable_stats=true`,
      );
      return queues
        .filter(({ name }) => !name.startsWith("amq.gen-"))
        .map((queue) => ({ name: queue.name, expires: queue.exclusive === true || "x-expires" in queue.arguments }));
    },
    figuresAgeMs: 6_000,
    heldBytes: async () => {
      const queues = await get<readonly { name: string; message_bytes?: number }[]>(`/queues/${vhost.name}`);
      return queues
        .filter(({ name }) => !name.startsWith("amq.gen-"))
        .reduce((sum, { message_bytes = 0 }) => sum + message_bytes, 0);
    },
    connections: async () => {
      const connections = await get<readonly unknown[]>(`/vhosts/${vhost.name}/connections`);
      return connections.length - (listening === undefined ? 0 : 1);
    },
    listen: async () => {
      // The firehose: with tracing on, the broker publishes a copy of every message to this exchange.
      await server.api("PUT", `/vhosts/${vhost.name}`, { tracing: true });
      const { connect } = await import("amqplib");
      const connection = await connect(vhost.url);
      listening = connection;
      const channel = await connection.createChannel();
      const { queue } = await channel.assertQueue("", { exclusive: true });
      await channel.bindQueue(queue, "amq.rabbitmq.trace", "publish.#");
      await channel.consume(queue, (message) => message !== null && passed.push(message.content), { noAck: true });
    },
    passed: async () => passed.flatMap(asPublished),
    close: async () => {
      await listening?.close();
      listening = undefined;
    },
  };
}

/** A message's body, and where there are compressed chunks in it, also what they were before. */
function asPublished(body: Buffer): Buffer[] {
  const compressed = chunksOf(body).filter(({ compression }) => compression !== "");
  return [body, ...compressed.map((chunk) => Buffer.from(chunkContent(chunk, CHUNK_BYTES)))];
}

function chunksOf(body: Buffer): Chunk[] {
  try {
    const frames = separated(fromBinary(FrameSchema, body));
    return frames.flatMap(({ body: content }) => (content.case === "chunk" ? [content.value] : []));
  } catch {
    // Most messages are no frames.
    return [];
  }
}
