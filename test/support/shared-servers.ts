/** The real servers of one test run: each is started once, and named to the test files by their environment. */
import type { BackendChoice } from "./backends.ts";

/** Servers that run. */
export interface SharedServers {
  /** For the test files: `DYNAMOS_TEST_ETCD` and so on. */
  readonly environment: Readonly<Record<string, string>>;
  stop(): Promise<void>;
}

/** Starts what was chosen and is not named by the environment already. */
export async function startSharedServers(choice: Partial<BackendChoice>): Promise<SharedServers> {
  const environment: Record<string, string> = {};
  const stopping: (() => Promise<void>)[] = [];
  if (choice.store === "etcd" && !process.env["DYNAMOS_TEST_ETCD"]) {
    const { startEtcd } = await import("./etcd.ts");
    const etcd = await startEtcd();
    stopping.push(() => etcd.stop());
    environment["DYNAMOS_TEST_ETCD"] = etcd.url();
  }
  if (choice.bus === "rabbitmq" && !process.env["DYNAMOS_TEST_AMQP"]) {
    const { startOwnRabbitMq } = await import("./rabbitmq.ts");
    const rabbitMq = await startOwnRabbitMq();
    stopping.push(() => rabbitMq.close());
    Object.assign(environment, rabbitMq.environment);
  }
  return {
    environment,
    stop: async () => {
      for (const stop of stopping.reverse()) await stop();
    },
  };
}
