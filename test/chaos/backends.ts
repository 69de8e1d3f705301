/** The store and the bus under the exchange, as the harness sees them: from outside, with every right, and with a hand on the switch. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { openMessageBus } from "../../lib/bus/open.ts";
import { noEtcdProgram, startEtcd } from "../support/etcd.ts";
import { skipOwnRabbitMq, startOwnRabbitMq } from "../support/rabbitmq.ts";
import { keysInEtcd, keysInSqlite, type StoredKey } from "../support/store-inspection.ts";

/** One queue of the bus. */
export interface SeenQueue {
  readonly name: string;
  readonly kind: "service" | "run";
  /** Waiting or unsettled. */
  readonly messages: number;
}

/** One dead letter. */
export interface SeenDeadLetter {
  readonly queue: string;
  readonly reason: string;
  readonly type: string;
}

/** A server that can be stopped and started: its data and ports stay. */
export interface Switchable {
  kill(): Promise<void>;
  /** In an orderly way. */
  stop(): Promise<void>;
  start(): Promise<void>;
  pause(): Promise<void>;
  resume(): void;
}

/** See the file comment. */
export interface Backends {
  readonly storeUrl: string;
  readonly busUrl: string;
  /** Absent where they are files. */
  readonly store?: Switchable;
  readonly broker?: Switchable;
  queues(): Promise<readonly SeenQueue[]>;
  deadLetters(): Promise<readonly SeenDeadLetter[]>;
  /** Keys that go by themselves. */
  leasedKeys(): Promise<ReadonlySet<string>>;
  /** Leases that no key belongs to. */
  idleLeases(): Promise<readonly string[]>;
  close(): Promise<void>;
}

/** SQLite files in the exchange's state folder. */
export function embeddedBackends(stateFolder: string): Backends {
  const path = join(stateFolder, "bus.db");
  const query = <Row>(sql: string): Row[] => {
    if (!existsSync(path)) return [];
    const bus = new Database(path, { readonly: true });
    try {
      return bus.prepare<[], Row>(sql).all();
    } finally {
      bus.close();
    }
  };
  return {
    storeUrl: `sqlite:${join(stateFolder, "store.db")}`,
    busUrl: `embedded:${path}`,
    queues: async () =>
      query<SeenQueue>(
        "SELECT name, kind, (SELECT count(*) FROM message WHERE queue_id = queue.id) AS messages FROM queue",
      ),
    deadLetters: async () => query<SeenDeadLetter>("SELECT queue, reason, type FROM dead_letter"),
    leasedKeys: async () => leasedAmong(await keysInSqlite(join(stateFolder, "store.db"))),
    idleLeases: async () => [],
    close: async () => undefined,
  };
}

function leasedAmong(keys: readonly StoredKey[]): ReadonlySet<string> {
  return new Set(keys.filter(({ isLeased }) => isLeased).map(({ key }) => key));
}

/** Why real servers cannot be started here; undefined where they can. */
export function noRealBackends(): string | undefined {
  return noEtcdProgram() || skipOwnRabbitMq || undefined;
}

/** How a queue is listed by RabbitMQ's management API. */
interface ListedQueue {
  readonly name: string;
  readonly exclusive?: boolean;
  readonly messages?: number;
  readonly arguments: { readonly "x-queue-type"?: string };
}

const MOST_DEAD_LETTERS = 500;

/** An etcd and a RabbitMQ of the harness's own. */
export async function realBackends(): Promise<Backends> {
  const etcd = await startEtcd();
  const rabbit = await startOwnRabbitMq();
  const vhost = await rabbit.vhost();
  const storeUrl = etcd.url();
  const busUrl = vhost.url;
  return {
    storeUrl,
    busUrl,
    store: etcd,
    broker: rabbit,
    queues: async () => {
      const listed = (await rabbit.api("GET", `/queues/${vhost.name}`)) as readonly ListedQueue[];
      return listed
        .filter(({ name, exclusive }) => exclusive !== true && !name.startsWith("dead-letter"))
        .map(({ name, messages = 0, arguments: options }) => ({
          name,
          kind: options["x-queue-type"] === "quorum" ? "service" : "run",
          messages,
        }));
    },
    deadLetters: async () => {
      const bus = await openMessageBus(busUrl);
      try {
        const letters = await bus.deadLetters(MOST_DEAD_LETTERS);
        return letters.map(({ queue, reason, message }) => ({ queue, reason, type: message.type }));
      } finally {
        await bus.close();
      }
    },
    leasedKeys: async () => leasedAmong(await keysInEtcd(storeUrl)),
    idleLeases: async () => {
      const admin = await etcd.admin();
      try {
        const { leases } = await admin.leaseClient.leaseLeases();
        const { kvs } = await admin.getAll().exec();
        const used = new Set(kvs.map(({ lease }) => lease));
        return leases.map(({ ID }) => ID).filter((id) => !used.has(id));
      } finally {
        admin.close();
      }
    },
    close: async () => {
      await rabbit.close();
      await etcd.stop();
    },
  };
}
