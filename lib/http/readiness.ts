/**
 * What `/ready` tells: each thing that a deployable needs, whether it is there, since when, and what to do.
 *
 * A dependency is asked when somebody asks for the readiness, within a limit that is shorter than a prober's patience; one
 * that has not answered yet is not asked again before it does, however often probes come.
 */
import type { Clock } from "../clock.ts";
import type { MessageBus } from "../bus/message-bus.ts";
import { AppError, toAppError } from "../errors.ts";
import { dynamosMeter } from "../telemetry/metrics.ts";
import type { ServerCertificate } from "../tls/server-certificate.ts";
import type { Trust } from "../tls/trust.ts";
import { fetchTrusted } from "./fetch.ts";

/** One thing that a deployable works with, as it is now. */
export interface DependencyStatus {
  readonly name: string;
  readonly ok: boolean;
  /** Without a required one the deployable is not ready; without another it does a part of its work. */
  readonly required: boolean;
  /** When it was first seen like this, without a change since (ISO 8601). */
  readonly since: string;
  /** What is wrong, when it is not ok. */
  readonly detail?: string;
  /** What to do about it, when it is not ok. */
  readonly fix?: string;
}

/** How a dependency is asked. */
export interface Dependency {
  /** For people, and the label of the metric: `knowledge store`. */
  readonly name: string;
  /** Default true. */
  readonly required?: boolean;
  /** Resolves when it is there; the message of what it throws is shown. */
  check(): Promise<void>;
  /** What an operator does when it is not. */
  readonly fix: string;
}

/** The readiness of a deployable. */
export type Readiness = () => Promise<readonly DependencyStatus[]>;

/** A prober such as a kubelet waits for one second unless told otherwise. */
const DEFAULT_LIMIT_MS = 800;
const ANSWER_LIMIT_MS = 2_000;

/** What {@link readinessOf} may be given. */
export interface ReadinessOptions {
  readonly clock: Clock;
  /** How long an answer may take before a dependency counts as away. Default 800 ms. */
  readonly limitMs?: number;
}

/** The readiness that follows from these dependencies; also observed as the metric `dynamos.dependency.up`. */
export function readinessOf(dependencies: readonly Dependency[], options: ReadinessOptions): Readiness {
  const probes = dependencies.map((dependency) => new Probe(dependency, options));
  const readiness: Readiness = () => Promise.all(probes.map((probe) => probe.status()));
  const up = dynamosMeter().createObservableGauge("dynamos.dependency.up", {
    description: "1 where a dependency answers, else 0",
  });
  up.addCallback(async (result) => {
    for (const { name, ok } of await readiness()) result.observe(ok ? 1 : 0, { dependency: name });
  });
  return readiness;
}

/** Something that can prove that it answers. */
interface Pingable {
  ping(): Promise<void>;
}

/** Knowledge store and message bus as dependencies. */
export function portDependencies(ports: { readonly store: Pingable; readonly bus: Pingable }): readonly Dependency[] {
  return [
    {
      name: "knowledge store",
      check: () => ports.store.ping(),
      fix: "See that what DYNAMOS_STORE names runs and can be reached from here; then this comes back by itself.",
    },
    {
      name: "message bus",
      check: () => ports.bus.ping(),
      fix: "See that what DYNAMOS_BUS names runs and can be reached from here; then this comes back by itself.",
    },
  ];
}

/** The server's certificate as a dependency; none where it serves plain HTTP. It is served on for as long as callers bear it. */
export function certificateDependency(certificate: ServerCertificate | undefined): readonly Dependency[] {
  if (certificate === undefined) return [];
  const { certFile, keyFile } = certificate.place;
  return [
    {
      name: "TLS certificate",
      required: false,
      check: async () => certificate.check(),
      fix: `Put a certificate in PEM and the key that fits it into ${certFile} and ${keyFile}: they are read again by themselves.`,
    },
  ];
}

/** Fails with `unavailable` where nobody takes messages from a service queue. */
export async function requireConsumer(bus: Pick<MessageBus, "queueStatus">, queue: string): Promise<void> {
  const status = await bus.queueStatus(queue);
  if (status === undefined) throw new AppError("unavailable", `There is no queue ${queue} yet.`);
  if (status.consumers === 0) throw new AppError("unavailable", `Nobody takes messages from ${queue}.`);
}

/** Fails with `unavailable` where an HTTP GET is not answered with a status of success. */
export async function requireAnswer(url: string, trust: Trust): Promise<void> {
  const signal = AbortSignal.timeout(ANSWER_LIMIT_MS);
  const response = await fetchTrusted(url, { signal, trust }).catch((cause: unknown) => {
    if (cause instanceof AppError) throw cause;
    throw new AppError("unavailable", `${url} cannot be reached.`, { cause });
  });
  await response.body?.cancel();
  if (!response.ok) throw new AppError("unavailable", `${url} answers with status ${String(response.status)}.`);
}

type Outcome = { readonly ok: true } | { readonly ok: false; readonly detail: string };

/** Asks one dependency, and remembers since when it is as it is. */
class Probe {
  readonly #dependency: Dependency;
  readonly #clock: Clock;
  readonly #limitMs: number;
  #asking: { readonly outcome: Promise<Outcome>; readonly sinceMs: number } | undefined;
  #last: { readonly ok: boolean; readonly sinceMs: number } | undefined;

  constructor(dependency: Dependency, { clock, limitMs = DEFAULT_LIMIT_MS }: ReadinessOptions) {
    this.#dependency = dependency;
    this.#clock = clock;
    this.#limitMs = limitMs;
  }

  async status(): Promise<DependencyStatus> {
    const outcome = await this.#ask();
    const { name, required = true, fix } = this.#dependency;
    const since = new Date(this.#sinceMs(outcome.ok)).toISOString();
    return { name, ok: outcome.ok, required, since, ...(outcome.ok ? {} : { detail: outcome.detail, fix }) };
  }

  async #ask(): Promise<Outcome> {
    this.#asking ??= {
      sinceMs: this.#clock.now(),
      outcome: this.#outcome().finally(() => (this.#asking = undefined)),
    };
    const { outcome, sinceMs } = this.#asking;
    const stop = new AbortController();
    const late = this.#clock.sleep(Math.max(0, this.#limitMs - (this.#clock.now() - sinceMs)), stop.signal).then(
      async (): Promise<Outcome> => {
        // Where this process itself was late, the answer may have come and not have been read.
        await new Promise(setImmediate);
        return { ok: false, detail: `It has not answered within ${String(this.#limitMs)} ms.` };
      },
      // Stopped below: the answer was there first.
      (): Promise<Outcome> => outcome,
    );
    try {
      return await Promise.race([outcome, late]);
    } finally {
      stop.abort();
    }
  }

  async #outcome(): Promise<Outcome> {
    try {
      await this.#dependency.check();
      return { ok: true };
    } catch (thrown) {
      return { ok: false, detail: toAppError(thrown).message };
    }
  }

  #sinceMs(ok: boolean): number {
    if (this.#last?.ok !== ok) this.#last = { ok, sinceMs: this.#clock.now() };
    return this.#last.sinceMs;
  }
}
