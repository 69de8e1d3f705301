/** The store and the bus under the exchange, as the harness sees them: from outside, and with every right. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";

/** One queue of the bus. */
export interface SeenQueue {
  readonly name: string;
  /** Dead letters are kept apart. */
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

/** See the file comment. */
export interface Backends {
  readonly storeUrl: string;
  readonly busUrl: string;
  queues(): Promise<readonly SeenQueue[]>;
  deadLetters(): Promise<readonly SeenDeadLetter[]>;
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
    close: async () => undefined,
  };
}
