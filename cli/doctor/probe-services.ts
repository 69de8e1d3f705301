/** Gathers what `services.ts` judges: asks each orchestrator and agent by HTTP, and each TLS address for its certificate. */
import { connect } from "node:tls";
import type { Clock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { fetchTrusted } from "../../lib/http/fetch.ts";
import type { Trust } from "../../lib/tls/trust.ts";
import { attempt } from "./attempt.ts";
import { ORCHESTRATOR, type CertificateFacts, type ReportedDependency, type ServiceFacts } from "./services.ts";
import type { StoreFacts } from "./store.ts";

const ANSWER_LIMIT_MS = 5_000;
const LOOK_AGAIN_MS = 1_000;

/** What asking needs. */
export interface ServiceProbe {
  readonly clock: Clock;
  /** Whose certificates count. */
  readonly trust: Trust;
}

/** Asks all that are online, and the orchestrator at this URL. */
export async function probeServices(
  { agents, orchestrators }: StoreFacts,
  orchestratorUrl: string | undefined,
  probe: ServiceProbe,
): Promise<readonly ServiceFacts[]> {
  const front = new Set([
    ...(orchestratorUrl === undefined ? [] : [orchestratorUrl]),
    ...orchestrators.map((each) => each.url),
  ]);
  return Promise.all([
    ...[...front].map((url) => probeOrchestrator(url, probe)),
    ...agents.map(({ name, instanceUrl }) => probeService(`the agent of ${name}`, instanceUrl, probe)),
  ]);
}

async function probeOrchestrator(url: string, probe: ServiceProbe): Promise<ServiceFacts> {
  const service = await probeService(ORCHESTRATOR, url, probe);
  const keys = await attempt(() => getJson(`${url}/.well-known/jwks.json`, probe.trust));
  const set = keys.result?.body as { readonly keys?: readonly { readonly kid?: string }[] } | undefined;
  return set?.keys === undefined ? service : { ...service, keyIds: set.keys.map(({ kid }) => kid ?? "") };
}

interface ReadyBody {
  readonly version?: string;
  readonly time?: string;
  readonly dependencies?: readonly ReportedDependency[];
}

/** A part that is not ready is asked once more: its first look at a dependency may take longer than it waits. */
async function probeService(name: string, url: string, probe: ServiceProbe): Promise<ServiceFacts> {
  const first = await probeOnce(name, url, probe);
  const isWell = first.isReady === true && first.dependencies?.every(({ ok }) => ok) === true;
  if (isWell || !first.reached.ok) return first;
  await probe.clock.sleep(LOOK_AGAIN_MS);
  return probeOnce(name, url, probe);
}

async function probeOnce(name: string, url: string, { clock, trust }: ServiceProbe): Promise<ServiceFacts> {
  const begunMs = clock.now();
  const asked = await attempt(() => getJson(`${url}/ready`, trust));
  const tookMs = clock.now() - begunMs;
  const answer = asked.result;
  if (answer === undefined) return { name, url, reached: asked.outcome };
  const { version, time, dependencies } = (answer.body ?? {}) as ReadyBody;
  const timeMs = Date.parse(time ?? "");
  return {
    name,
    url,
    reached: asked.outcome,
    isReady: answer.status === 200,
    ...(Number.isNaN(timeMs) ? {} : { clockOffsetMs: timeMs - (begunMs + tookMs / 2) }),
    ...(version === undefined ? {} : { version }),
    ...(Array.isArray(dependencies) ? { dependencies } : {}),
  };
}

interface JsonAnswer {
  readonly status: number;
  readonly body: unknown;
}

async function getJson(url: string, trust: Trust): Promise<JsonAnswer> {
  let response: Response;
  try {
    response = await fetchTrusted(url, { signal: AbortSignal.timeout(ANSWER_LIMIT_MS), trust });
  } catch (cause) {
    if (cause instanceof AppError) throw cause;
    throw new AppError("unavailable", `${url}: ${reasonOf(cause)}.`, { cause });
  }
  const text = await response.text();
  try {
    return { status: response.status, body: JSON.parse(text) };
  } catch (cause) {
    throw new AppError("unavailable", `${url} answers, and not as a part of this system would.`, { cause });
  }
}

/** `fetch` says "fetch failed", and the reason only in its cause. */
function reasonOf(thrown: unknown): string {
  if (!(thrown instanceof Error)) return String(thrown);
  if (thrown.name === "TimeoutError") return `no answer within ${String(ANSWER_LIMIT_MS)} ms`;
  const { code, cause } = thrown as { code?: string; cause?: { readonly code?: string; readonly message?: string } };
  return code ?? cause?.code ?? cause?.message ?? thrown.message;
}

/** The certificates at those of these URLs that are TLS; one that cannot be reached has been named already. */
export async function probeCertificates(urls: readonly string[]): Promise<readonly CertificateFacts[]> {
  const addresses = new Map(
    urls.flatMap(tlsAddresses).map((address) => [`${address.host}:${String(address.port)}`, address]),
  );
  const found = await Promise.all(
    [...addresses].map(async ([name, address]) => {
      const { result } = await attempt(() => certificateEnd(address));
      return result === undefined ? [] : [{ host: name, validUntil: result }];
    }),
  );
  return found.flat();
}

interface TlsAddress {
  readonly host: string;
  readonly port: number;
}

const TLS_PORTS: Readonly<Record<string, number>> = { https: 443, amqps: 5671, etcds: 2379 };

/** Of etcd's URLs there may be several. */
function tlsAddresses(url: string): readonly TlsAddress[] {
  const [, scheme = "", hosts = ""] = /^([a-z]+):\/\/(?:[^/?#]*@)?([^/?#@]+)/.exec(url) ?? [];
  const usual = TLS_PORTS[scheme];
  if (usual === undefined) return [];
  return hosts.split(",").map((each) => {
    const [, host = "", port] = /^(.*?)(?::(\d+))?$/.exec(each) ?? [];
    return { host: host.replace(/^\[|\]$/g, ""), port: port === undefined ? usual : Number(port) };
  });
}

function certificateEnd({ host, port }: TlsAddress): Promise<Date> {
  return new Promise((resolve, reject) => {
    // Only its dates are read, so it is not judged here: nothing is sent.
    const socket = connect(
      { host, port, rejectUnauthorized: false, servername: host, timeout: ANSWER_LIMIT_MS },
      () => {
        const { valid_to: end } = socket.getPeerCertificate();
        socket.destroy();
        resolve(new Date(end));
      },
    );
    socket.on("timeout", () => socket.destroy(new AppError("deadline_exceeded", "No TLS handshake in time.")));
    socket.on("error", reject);
  });
}
