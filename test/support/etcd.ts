/**
 * Real etcd servers for tests: started as child processes on free ports in temporary folders, or one that is there already,
 * named by `DYNAMOS_TEST_ETCD=etcd://…` (then every use gets a key prefix of its own).
 *
 * A server dies with the test process, also when that is killed hard: a shell that reads from a pipe of the test's stands
 * between them, and kills the server at the end of its input.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { mkdtemp, readFile, statfs } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { Etcd3 } from "etcd3";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { type CertificateFiles } from "./certificates.ts";
import { eventually } from "./eventually.ts";
import { pauseProcess, resumeProcess } from "./pause-process.ts";
import { temporaryFolder } from "./temporary-folder.ts";

/**
 * POSIX shell: starts what it is told, tells its process id, and kills it when its own input ends. Unless it reads `keep`
 * before, it deletes the folder of the data too, which may lie in memory.
 */
const GUARD_PROGRAM = `
trap '' HUP INT TERM
data=$1; shift
"$@" >/dev/null 2>&1 &
server=$!
echo "$server"
word=
while read -r line; do word=$line; done
kill -s KILL "$server" 2>/dev/null
wait "$server" 2>/dev/null
[ "$word" = keep ] || rm -rf -- "$data"
exit 0`;

/** Memory that looks like a disk: a server there need not wait for a disk that others keep busy. */
const MEMORY_FOLDER = "/dev/shm";
const MEMORY_NEEDED_BYTES = 2 ** 30;

const READY_MS = 30_000;
const START_ATTEMPTS = 3;

/** Whose etcd the tests are given, if any. */
function givenUrl(): string | undefined {
  return process.env["DYNAMOS_TEST_ETCD"] || undefined;
}

/** Why tests that need any etcd cannot run here; false when they can. For a test's `skip`. */
export function noEtcd(): string | false {
  return givenUrl() === undefined ? noEtcdProgram() : false;
}

/** Why tests that stop, restart or configure an etcd of their own cannot run here; false when they can. */
export function noEtcdProgram(): string | false {
  if (spawnSync("etcd", ["--version"]).status === 0) return false;
  const hint = givenUrl() === undefined ? ", or set DYNAMOS_TEST_ETCD" : " (this test needs a server of its own)";
  return `etcd is not installed: apt-get install etcd-server${hint}`;
}

/** How a server is started. */
export interface EtcdOptions {
  /** Serves TLS with this certificate. */
  readonly tls?: CertificateFiles & {
    /** The authority that signed it. */
    readonly caFile: string;
    /** Whether clients must show a certificate that the same authority signed. */
    readonly demandsClientCertificate?: boolean;
  };
  /** Takes no more writes when its file has this size. */
  readonly quotaBytes?: number;
  /** Further flags of the program. */
  readonly flags?: readonly string[];
}

/** An etcd to use: a server of our own, or keys below a random prefix in the one that is given. */
export interface EtcdForTests {
  /** `etcd://…`, for `openKnowledgeStore`. */
  readonly url: string;
  /** The server, when it is our own; without it, what needs control of the server is to be skipped by name. */
  readonly server?: EtcdServer;
  /** Ends the server, or deletes the keys. */
  readonly stop: () => Promise<void>;
}

/** See {@link EtcdForTests}. Check {@link noEtcd} before. */
export async function etcdForTests(): Promise<EtcdForTests> {
  const given = givenUrl();
  if (given === undefined) {
    const server = await startEtcd();
    return { url: server.url(), server, stop: () => server.stop() };
  }
  const url = new URL(given.replace(/^etcd/, "http"));
  url.pathname = `${url.pathname.replace(/\/$/, "")}/test-${randomUUID()}`;
  const prefixed = url.href.replace(/^http/, "etcd");
  return { url: prefixed, stop: () => deleteAll(prefixed) };
}

async function deleteAll(url: string): Promise<void> {
  const store = await openKnowledgeStore(url);
  try {
    for (const { key } of (await store.list("")).documents) await store.delete(key);
  } finally {
    await store.close();
  }
}

/** Starts a server, and resolves when it is healthy. Stop it in the end. Check {@link noEtcdProgram} before. */
export async function startEtcd(options: EtcdOptions = {}): Promise<EtcdServer> {
  const folders = { log: await temporaryFolder(), data: await dataFolder() };
  for (let attempt = 1; ; attempt++) {
    const ports = { client: await freePort(), peer: await freePort(), health: await freePort() };
    const server = new EtcdServer(folders, ports, options);
    try {
      await server.start();
      return server;
    } catch (error) {
      // Somebody else may have taken one of the ports meanwhile.
      if (attempt === START_ATTEMPTS) throw error;
    }
  }
}

interface Ports {
  readonly client: number;
  readonly peer: number;
  readonly health: number;
}

interface Folders {
  readonly log: string;
  readonly data: string;
}

/** An etcd of our own. */
export class EtcdServer {
  readonly ports: Ports;
  readonly #folders: Folders;
  readonly #options: EtcdOptions;
  #guard: ChildProcess | undefined;
  #pid = 0;

  constructor(folders: Folders, ports: Ports, options: EtcdOptions) {
    this.#folders = folders;
    this.ports = ports;
    this.#options = options;
  }

  /** `127.0.0.1:<port>` of its clients. */
  get endpoint(): string {
    return `127.0.0.1:${this.ports.client}`;
  }

  /** Where its data lie. */
  get dataFolder(): string {
    return this.#folders.data;
  }

  /** Process id; 0 while it is not running. */
  get pid(): number {
    return this.#pid;
  }

  /** For `openKnowledgeStore`. `path` is a key prefix with leading slash; of TLS files, add the query yourself. */
  url(path = "", user?: { readonly name: string; readonly password: string }): string {
    const scheme = this.#options.tls === undefined ? "etcd" : "etcds";
    const credentials =
      user === undefined ? "" : `${encodeURIComponent(user.name)}:${encodeURIComponent(user.password)}@`;
    return `${scheme}://${credentials}${this.endpoint}${path}`;
  }

  /** Starts it, again with the same ports and data; resolves when it is healthy. */
  async start(): Promise<void> {
    const guard = spawn("/bin/sh", ["-c", GUARD_PROGRAM, "etcd-guard", this.#folders.data, "etcd", ...this.#flags()], {
      // In a session of its own, so that Ctrl+C reaches the test first.
      detached: true,
      stdio: ["pipe", "pipe", "ignore"],
    });
    // A guard that is gone already has done its work.
    guard.stdin.on("error", () => undefined);
    this.#guard = guard;
    try {
      const [line] = (await once(guard.stdout, "data")) as [Buffer];
      this.#pid = Number(line.toString());
      await eventually(() => this.#isHealthy(), {
        timeoutMs: READY_MS,
        intervalMs: 50,
        describe: `etcd on port ${this.ports.client} to be healthy`,
      });
    } catch (error) {
      await this.kill();
      throw new Error(`etcd did not start. Its last words:\n${await this.lastWords()}`, { cause: error });
    }
  }

  /** Ends it with SIGTERM; its data stay. */
  async stop(): Promise<void> {
    if (this.#pid === 0) return;
    this.resume();
    process.kill(this.#pid, "SIGTERM");
    // One that does not obey is killed.
    await eventually(() => !this.#isRunning(), { intervalMs: 50 }).catch(() => undefined);
    await this.kill();
  }

  /** `kill -9`; resolves when it is gone. Its data stay. */
  async kill(): Promise<void> {
    const guard = this.#guard;
    this.#guard = undefined;
    this.#pid = 0;
    if (guard === undefined || guard.exitCode !== null || guard.signalCode !== null) return;
    const exited = once(guard, "exit");
    guard.stdin?.end("keep\n");
    await exited;
  }

  /** Resolves when it stands still; its connections stay open. */
  async pause(): Promise<void> {
    await pauseProcess(this.#pid);
  }

  /** Lets it go on. */
  resume(): void {
    resumeProcess(this.#pid);
  }

  /** Makes it forget all changes before its present revision. */
  async compact(): Promise<void> {
    const admin = await this.admin();
    try {
      const { header } = await admin.kv.range({ key: Buffer.from("/") });
      await admin.kv.compact({ revision: header.revision, physical: true });
    } finally {
      admin.close();
    }
  }

  /** The end of its log. */
  async lastWords(): Promise<string> {
    const log = await readFile(this.#logFile, "utf8").catch(() => "(it wrote no log)");
    return log.split("\n").slice(-15).join("\n");
  }

  /**
   * A client with every right, for what the knowledge store's port does not offer: compaction, users and roles. Close it.
   */
  async admin(
    user?: { readonly name: string; readonly password: string },
    clientTls?: CertificateFiles,
  ): Promise<Etcd3> {
    const { tls } = this.#options;
    const scheme = tls === undefined ? "http" : "https";
    return new Etcd3({
      hosts: `${scheme}://${this.endpoint}`,
      ...(user === undefined ? {} : { auth: { username: user.name, password: user.password } }),
      ...(tls === undefined
        ? {}
        : {
            credentials: {
              rootCertificate: await readFile(tls.caFile),
              ...(clientTls === undefined
                ? {}
                : { privateKey: await readFile(clientTls.keyFile), certChain: await readFile(clientTls.certFile) }),
            },
          }),
    });
  }

  /** Switches users on: `root` with this password, and each user with the right to everything below one key prefix. */
  async enableAuth(
    rootPassword: string,
    users: readonly { readonly name: string; readonly password: string; readonly prefix: string }[] = [],
  ): Promise<void> {
    const admin = await this.admin();
    try {
      for (const { name, password, prefix } of users) {
        const user = await admin.user(name).create(password);
        const role = await admin.role(name).create();
        await role.grant({ permission: "Readwrite", range: admin.range({ prefix }) });
        await user.addRole(role);
      }
      const root = await admin.user("root").create(rootPassword);
      await root.addRole(await admin.role("root").create());
      await admin.auth.authEnable();
    } finally {
      admin.close();
    }
  }

  get #logFile(): string {
    return join(this.#folders.log, "etcd.log");
  }

  #flags(): string[] {
    const { tls, quotaBytes, flags = [] } = this.#options;
    const scheme = tls === undefined ? "http" : "https";
    return [
      "--name=test",
      `--data-dir=${join(this.#folders.data, "data")}`,
      `--listen-client-urls=${scheme}://${this.endpoint}`,
      `--advertise-client-urls=${scheme}://${this.endpoint}`,
      `--listen-peer-urls=http://127.0.0.1:${this.ports.peer}`,
      `--initial-advertise-peer-urls=http://127.0.0.1:${this.ports.peer}`,
      `--initial-cluster=test=http://127.0.0.1:${this.ports.peer}`,
      // Plain HTTP, whatever the clients' port demands.
      `--listen-metrics-urls=http://127.0.0.1:${this.ports.health}`,
      "--logger=zap",
      `--log-outputs=${this.#logFile}`,
      // Half the usual: the shortest lease that etcd grants follows from them, and is 1 s then, as in the port.
      "--heartbeat-interval=50",
      "--election-timeout=500",
      ...(tls === undefined ? [] : [`--cert-file=${tls.certFile}`, `--key-file=${tls.keyFile}`]),
      ...(tls?.demandsClientCertificate ? ["--client-cert-auth", `--trusted-ca-file=${tls.caFile}`] : []),
      ...(quotaBytes === undefined ? [] : [`--quota-backend-bytes=${quotaBytes}`]),
      ...flags,
    ];
  }

  async #isHealthy(): Promise<boolean> {
    if (!this.#isRunning()) return false;
    const answer = await fetch(`http://127.0.0.1:${this.ports.health}/health`, { signal: AbortSignal.timeout(2000) });
    return ((await answer.json()) as { health?: string }).health === "true";
  }

  /** A process that has ended stays in the table, as a zombie, as long as its guard does not wait for it. */
  #isRunning(): boolean {
    const state = spawnSync("ps", ["-o", "stat=", "-p", String(this.#pid)], { encoding: "utf8" });
    return state.status === 0 && !state.stdout.startsWith("Z");
  }
}

async function dataFolder(): Promise<string> {
  const free = await statfs(MEMORY_FOLDER).then(
    ({ bavail, bsize }) => bavail * bsize,
    () => 0,
  );
  if (free < MEMORY_NEEDED_BYTES) return temporaryFolder();
  const folder = await mkdtemp(join(MEMORY_FOLDER, "dynamos-test-etcd-"));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
  return folder;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
