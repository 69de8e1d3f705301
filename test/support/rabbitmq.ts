/**
 * A real RabbitMQ for tests: a server of the test's own in a temporary folder on free ports, or the one that
 * `DYNAMOS_TEST_AMQP` (`amqp://user:password@host:5672`) and `DYNAMOS_TEST_AMQP_MANAGEMENT` (`http://user:password@host:15672`)
 * name. Tests are kept apart by virtual hosts.
 *
 * The server runs without its packaged wrapper, which wants root or a user of its own. Server and name daemon (epmd) each
 * stand in a process group with a guard, which kills the group when this process is gone, however it went.
 */
import assert from "node:assert/strict";
import { spawn, execFile, type ChildProcess } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { existsSync, openSync, closeSync } from "node:fs";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { delimiter, dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { eventually } from "./eventually.ts";
import { pauseProcess, resumeProcess } from "./pause-process.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const PROGRAMS = "/usr/lib/rabbitmq/bin";
const START_TIMEOUT_MS = 90_000;
const INSTALL = "apt-get install rabbitmq-server";

/** Why a test that stops, kills or configures its server cannot run here; false when it can. For `skip` of node:test. */
export const skipOwnRabbitMq: string | false = isInstalled() ? false : `RabbitMQ is not installed: ${INSTALL}`;

/** Why a test that needs any RabbitMQ cannot run here; false when it can. For `skip` of node:test. */
export const skipRabbitMq: string | false =
  process.env["DYNAMOS_TEST_AMQP"] === undefined && skipOwnRabbitMq !== false
    ? `${skipOwnRabbitMq}, or set DYNAMOS_TEST_AMQP`
    : false;

/** A virtual host of a test's own. */
export interface VirtualHost {
  readonly name: string;
  /** `amqp://user:password@host:port/name`, of the user who may do everything. */
  readonly url: string;
  /** The same for another user of {@link RabbitMq.addUser}. */
  urlFor(user: string, password: string): string;
  remove(): Promise<void>;
}

/** A user's permissions in a virtual host: regular expressions (RabbitMQ's "Access Control"). */
export interface UserPermissions {
  readonly configure: string;
  readonly write: string;
  readonly read: string;
  /** Topic permissions on an exchange. */
  readonly topic?: { readonly exchange: string; readonly write: string; readonly read: string };
}

/** A server that may be anybody's: what every test may do with it. */
export interface RabbitMq {
  /** Makes an empty virtual host. */
  vhost(): Promise<VirtualHost>;
  /** Adds a user who may do only so much in this virtual host. */
  addUser(user: string, password: string, vhost: VirtualHost, permissions: UserPermissions): Promise<void>;
  /** A call of the management API: `api("GET", "/queues")`. Undefined for an empty answer; fails on other statuses. */
  api(method: string, path: string, body?: unknown): Promise<unknown>;
  /** Ends every connection in a virtual host, as an operator would; returns how many there were. */
  cutConnections(vhost: VirtualHost): Promise<number>;
  /** Stops and starts it, if it is the test's own; its data stay. */
  restart?(): Promise<void>;
  /** Ends the server if it is the test's own. */
  close(): Promise<void>;
}

/** A server of the test's own. Data and ports stay the same over {@link stop} and {@link start}. */
export interface OwnRabbitMq extends RabbitMq {
  readonly folder: string;
  readonly port: number;
  readonly managementPort: number;
  /** Undefined without TLS. */
  readonly tlsPort: number | undefined;
  /** The variables that name it to other processes' {@link startRabbitMq}. */
  readonly environment: { readonly DYNAMOS_TEST_AMQP: string; readonly DYNAMOS_TEST_AMQP_MANAGEMENT: string };
  /** Stops it in an orderly way. */
  stop(): Promise<void>;
  /** `kill -9`. */
  kill(): Promise<void>;
  /** Starts it after {@link stop} or {@link kill}; `empty`: as if its disk had been lost. */
  start(options?: { readonly empty?: boolean }): Promise<void>;
  restart(): Promise<void>;
  /** Resolves when it answers nobody any more; its sockets stay. */
  pause(): Promise<void>;
  /** Lets it go on. */
  resume(): void;
  /** `rabbitmqctl …`, for what the management API does not offer. */
  ctl(...args: readonly string[]): Promise<string>;
}

/** How a server is started. */
export interface OwnRabbitMqOptions {
  /** More lines of `rabbitmq.conf`. */
  readonly configuration?: readonly string[];
  /** Files for a TLS listener on a port of its own. */
  readonly tls?: { readonly caFile: string; readonly certFile: string; readonly keyFile: string };
}

/** The server that the environment names, else one of the test's own. */
export async function startRabbitMq(): Promise<RabbitMq> {
  const amqp = process.env["DYNAMOS_TEST_AMQP"];
  if (amqp === undefined) return startOwnRabbitMq();
  const management = process.env["DYNAMOS_TEST_AMQP_MANAGEMENT"];
  assert.ok(
    management !== undefined,
    "DYNAMOS_TEST_AMQP needs DYNAMOS_TEST_AMQP_MANAGEMENT=http://user:password@host:15672",
  );
  return new Server(new URL(amqp), new URL(management));
}

/** Starts a server; resolves when it takes connections. */
export async function startOwnRabbitMq(options: OwnRabbitMqOptions = {}): Promise<OwnRabbitMq> {
  const [port, managementPort, distributionPort, epmdPort, tlsPort] = await freePorts(5);
  const folder = await temporaryFolder();
  const server = new OwnServer(folder, {
    port: port!,
    managementPort: managementPort!,
    distributionPort: distributionPort!,
    epmdPort: epmdPort!,
    tlsPort: options.tls === undefined ? undefined : tlsPort!,
  });
  await server.prepare(options);
  try {
    await server.start();
  } catch (error) {
    await server.close();
    throw error;
  }
  return server;
}

class Server implements RabbitMq {
  readonly environment: OwnRabbitMq["environment"];
  readonly #amqp: URL;
  readonly #management: URL;

  constructor(amqp: URL, management: URL) {
    this.#amqp = amqp;
    this.#management = management;
    this.environment = { DYNAMOS_TEST_AMQP: amqp.href, DYNAMOS_TEST_AMQP_MANAGEMENT: management.href };
  }

  async vhost(): Promise<VirtualHost> {
    const name = `test-${randomUUID().slice(0, 13)}`;
    await this.api("PUT", `/vhosts/${name}`, {});
    const user = decodeURIComponent(this.#amqp.username);
    await this.api("PUT", `/permissions/${name}/${user}`, { configure: ".*", write: ".*", read: ".*" });
    const urlFor = (as: string, password: string): string => {
      const url = new URL(`/${name}`, this.#amqp);
      url.username = as;
      url.password = password;
      return url.href;
    };
    return {
      name,
      url: urlFor(user, decodeURIComponent(this.#amqp.password)),
      urlFor,
      remove: async () => {
        await this.api("DELETE", `/vhosts/${name}`);
      },
    };
  }

  async addUser(user: string, password: string, vhost: VirtualHost, permissions: UserPermissions): Promise<void> {
    const { topic, ...general } = permissions;
    await this.api("PUT", `/users/${user}`, { password, tags: "" });
    await this.api("PUT", `/permissions/${vhost.name}/${user}`, general);
    if (topic !== undefined) await this.api("PUT", `/topic-permissions/${vhost.name}/${user}`, topic);
  }

  async cutConnections(vhost: VirtualHost): Promise<number> {
    const connections = (await this.api("GET", `/vhosts/${vhost.name}/connections`)) as readonly { name: string }[];
    for (const { name } of connections) await this.api("DELETE", `/connections/${encodeURIComponent(name)}`);
    return connections.length;
  }

  async api(method: string, path: string, body?: unknown): Promise<unknown> {
    const { username, password, origin } = this.#management;
    const credentials = Buffer.from(`${decodeURIComponent(username)}:${decodeURIComponent(password)}`);
    const answer = await fetch(`${origin}/api${path}`, {
      method,
      headers: { authorization: `Basic ${credentials.toString("base64")}`, "content-type": "application/json" },
      signal: AbortSignal.timeout(20_000),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    // A connection may have gone by itself before it was ended.
    if (!answer.ok && !(method === "DELETE" && answer.status === 404))
      throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return text === "" || !answer.ok ? undefined : JSON.parse(text);
  }

  async close(): Promise<void> {}
}

interface Ports {
  readonly port: number;
  readonly managementPort: number;
  readonly distributionPort: number;
  readonly epmdPort: number;
  readonly tlsPort: number | undefined;
}

class OwnServer extends Server implements OwnRabbitMq {
  readonly folder: string;
  readonly port: number;
  readonly managementPort: number;
  readonly tlsPort: number | undefined;
  readonly #ports: Ports;
  #epmd: Guarded | undefined;
  #broker: Guarded | undefined;

  constructor(folder: string, ports: Ports) {
    super(
      new URL(`amqp://tester:made-up@127.0.0.1:${ports.port}`),
      new URL(`http://tester:made-up@127.0.0.1:${ports.managementPort}`),
    );
    this.folder = folder;
    this.port = ports.port;
    this.managementPort = ports.managementPort;
    this.tlsPort = ports.tlsPort;
    this.#ports = ports;
  }

  async prepare(options: OwnRabbitMqOptions): Promise<void> {
    const { tls } = options;
    const configuration = [
      `listeners.tcp.1 = 127.0.0.1:${this.port}`,
      "management.tcp.ip = 127.0.0.1",
      `management.tcp.port = ${this.managementPort}`,
      "default_user = tester",
      "default_pass = made-up",
      "loopback_users = none",
      // A machine that tests is busy; the alarm has tests of its own.
      "vm_memory_high_watermark.absolute = 1GB",
      "disk_free_limit.absolute = 1MB",
      ...(tls === undefined
        ? []
        : [
            `listeners.ssl.1 = 127.0.0.1:${this.tlsPort}`,
            `ssl_options.cacertfile = ${tls.caFile}`,
            `ssl_options.certfile = ${tls.certFile}`,
            `ssl_options.keyfile = ${tls.keyFile}`,
          ]),
      ...(options.configuration ?? []),
    ];
    await mkdir(join(this.folder, "home"));
    await writeFile(join(this.folder, "rabbitmq.conf"), configuration.join("\n") + "\n");
    await writeFile(join(this.folder, "enabled_plugins"), "[rabbitmq_management].");
  }

  async start(options: { readonly empty?: boolean } = {}): Promise<void> {
    assert.ok(this.#broker === undefined, "it runs already");
    if (options.empty === true) await rm(join(this.folder, "data"), { recursive: true, force: true });
    const environment = this.#environment();
    this.#epmd ??= await startGuarded(["epmd", "-port", String(this.#ports.epmdPort)], environment, this.#log("epmd"));
    const command = [join(PROGRAMS, "rabbitmq-server"), "-noinput"];
    const broker = await startGuarded(command, environment, this.#log("broker"));
    this.#broker = broker;
    await eventually(
      async () => {
        if (broker.hasEnded()) return "ended";
        // The listeners come last, all at once.
        const overview = (await this.api("GET", "/overview")) as { listeners: readonly { port: number }[] };
        return overview.listeners.some(({ port }) => port === this.port) && "ready";
      },
      { timeoutMs: START_TIMEOUT_MS, intervalMs: 100, describe: `RabbitMQ in ${this.folder} to start` },
    );
    if (!broker.hasEnded()) return;
    this.#broker = undefined;
    throw new Error(`RabbitMQ did not start:\n${(await readFile(this.#log("broker"), "utf8")).slice(-2000)}`);
  }

  async stop(): Promise<void> {
    // SIGTERM is an orderly stop.
    await this.#end("SIGTERM");
  }

  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  async pause(): Promise<void> {
    if (this.#broker !== undefined && !this.#broker.hasEnded()) await pauseProcess(this.#broker.pid);
  }

  resume(): void {
    if (this.#broker !== undefined && !this.#broker.hasEnded()) resumeProcess(this.#broker.pid);
  }

  async ctl(...args: readonly string[]): Promise<string> {
    const { stdout } = await promisify(execFile)(join(PROGRAMS, "rabbitmqctl"), [...args], {
      env: this.#environment(),
      timeout: 60_000,
    });
    return stdout;
  }

  override async close(): Promise<void> {
    await this.kill();
    await this.#epmd?.end("SIGKILL");
    this.#epmd = undefined;
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const broker = this.#broker;
    this.#broker = undefined;
    await broker?.end(signal);
  }

  #log(name: string): string {
    return join(this.folder, `${name}.log`);
  }

  #environment(): Record<string, string> {
    const at = (name: string): string => join(this.folder, name);
    return {
      PATH: [process.env["PATH"], "/usr/sbin", "/usr/bin"].join(delimiter),
      HOME: at("home"),
      LANG: "C.UTF-8",
      // Otherwise the Debian package's own settings count.
      RABBITMQ_CONF_ENV_FILE: "/dev/null",
      RABBITMQ_NODENAME: `test-${this.port}@localhost`,
      RABBITMQ_DIST_PORT: String(this.#ports.distributionPort),
      ERL_EPMD_PORT: String(this.#ports.epmdPort),
      ERL_EPMD_ADDRESS: "127.0.0.1",
      RABBITMQ_MNESIA_BASE: at("data"),
      RABBITMQ_LOG_BASE: at("log"),
      RABBITMQ_LOGS: "-",
      RABBITMQ_CONFIG_FILE: at("rabbitmq.conf"),
      RABBITMQ_ENABLED_PLUGINS_FILE: at("enabled_plugins"),
      // Lets the start script become the server instead of watching over it, so that signals reach the server.
      RABBITMQ_ALLOW_INPUT: "1",
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: "+S 2:2 +A 8",
    };
  }
}

interface Guarded {
  /** Of the command. */
  readonly pid: number;
  hasEnded(): boolean;
  /** Resolves when the command and all of its group have ended. */
  end(signal: NodeJS.Signals): Promise<void>;
}

/** Runs the command of its arguments, says its pid, and kills its own group when the command or the standard input ends. */
const GUARD = `
  exec 3<&0
  "$@" 3<&- </dev/null >>"$GUARD_LOG" 2>&1 &
  command=$!
  echo $command
  (cat <&3 >/dev/null; kill -9 0) &
  wait $command
  kill -9 0`;

async function startGuarded(command: readonly string[], env: Record<string, string>, log: string): Promise<Guarded> {
  closeSync(openSync(log, "a"));
  const guard: ChildProcess = spawn("sh", ["-c", GUARD, "guard", ...command], {
    detached: true,
    stdio: ["pipe", "pipe", "ignore"],
    env: { ...env, GUARD_LOG: log },
    // Where a broker that dies of a lost disk puts its dump.
    cwd: dirname(log),
  });
  const exited = once(guard, "exit");
  const [line] = (await once(createInterface({ input: guard.stdout! }), "line")) as [string];
  const pid = Number(line);
  const hasEnded = (): boolean => guard.exitCode !== null || guard.signalCode !== null;
  return {
    pid,
    hasEnded,
    end: async (name) => {
      if (!hasEnded()) process.kill(pid, name);
      await exited;
    },
  };
}

/** Ports that nobody listens on; all are held until all are known, so that they differ. */
async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer().listen(0, "127.0.0.1");
      await once(server, "listening");
      return server;
    }),
  );
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

function isInstalled(): boolean {
  const path = (process.env["PATH"] ?? "").split(delimiter).concat("/usr/bin");
  return existsSync(join(PROGRAMS, "rabbitmq-server")) && path.some((folder) => existsSync(join(folder, "epmd")));
}
