/**
 * The few calls of Kubernetes' API that the runner makes. Where the API server is, and how one logs in there, is the client
 * library's to know (KUBECONFIG, or the pod's own service account, whose token it reads again as it rotates). The calls
 * themselves are made here: the library's watch has no limits of time, and its every call opens a connection.
 */
import { Agent, request as httpsRequest } from "node:https";
import { request as httpRequest, type IncomingMessage, type RequestOptions } from "node:http";
import { KubeConfig } from "@kubernetes/client-node";
import { AppError } from "../errors.ts";

/** One call. */
export interface ApiCall {
  readonly method: "GET" | "POST" | "PATCH" | "DELETE";
  readonly path: string;
  readonly query?: Readonly<Record<string, string | number | boolean>>;
  readonly body?: unknown;
  /** Of a PATCH; default a JSON merge patch (RFC 7386). */
  readonly contentType?: string;
  readonly signal?: AbortSignal;
}

/** Where the cluster's API is. */
export interface KubernetesApiOptions {
  /** A kubeconfig file; absent: KUBECONFIG, or the pod's own service account. */
  readonly kubeconfig?: string;
  readonly timeoutMs?: number;
}

/** HTTP status of a call that the API server refused, for those who tell more than {@link AppError} codes apart. */
export class ApiRefusal extends AppError {
  readonly httpStatus: number;

  constructor(httpStatus: number, ...parameters: ConstructorParameters<typeof AppError>) {
    super(...parameters);
    this.httpStatus = httpStatus;
  }
}

/** A watch that is silent for this long is taken for dead: servers send a bookmark about every minute. */
const SILENT_MS = 150_000;
/** A dead connection is noticed by TCP after this time and some probes. */
const KEEP_ALIVE_MS = 10_000;
/** Credentials are looked up again after this time. */
const CREDENTIALS_MS = 10_000;
/** No answer that is not streamed is longer. */
const MAX_BYTES = 64 * 1024 * 1024;

/** See the file comment. */
export class KubernetesApi {
  readonly #options: KubernetesApiOptions;
  readonly #agent = new Agent({ keepAlive: true, keepAliveMsecs: KEEP_ALIVE_MS, scheduling: "lifo" });
  #config: KubeConfig;
  #credentials: { readonly options: RequestOptions; readonly untilMs: number } | undefined;

  /** Fails with `configuration_invalid` where there is no configuration of a cluster. */
  constructor(options: KubernetesApiOptions = {}) {
    this.#options = options;
    this.#config = loadConfig(options);
  }

  /** The namespace that the configuration names: in a pod, the pod's own. */
  get namespace(): string {
    return this.#config.getContextObject(this.#config.currentContext)?.namespace ?? "default";
  }

  /**
   * A call that is answered with JSON.
   *
   * @throws AppError `not_found`, `already_exists`, `conflict`, `invalid_argument`, `access_refused`; `unavailable` where the
   * API server cannot be reached, does not answer in time, or is too busy.
   */
  async call<Answer>(call: ApiCall): Promise<Answer> {
    return JSON.parse(await this.text(call)) as Answer;
  }

  /** The same, of an answer that is text. */
  async text(call: ApiCall): Promise<string> {
    const timeout = AbortSignal.timeout(this.#options.timeoutMs ?? 15_000);
    const signal = call.signal ? AbortSignal.any([call.signal, timeout]) : timeout;
    try {
      return await collect(await this.#open(call, signal));
    } catch (error) {
      call.signal?.throwIfAborted();
      throw outwardError(call, error);
    }
  }

  /** An answer whatever its status, with the server's time: for what the API server only passes on, such as a pod's own answer. */
  async answer(call: ApiCall): Promise<{ readonly status: number; readonly date: string; readonly text: string }> {
    const signal = AbortSignal.timeout(this.#options.timeoutMs ?? 15_000);
    try {
      const response = await this.#send(call, await this.#login(), signal);
      const { statusCode: status = 0, headers } = response;
      return { status, date: headers.date ?? "", text: await collect(response) };
    } catch (error) {
      throw outwardError(call, error);
    }
  }

  /** The lines of an answer that goes on. Throws as {@link KubernetesApi.call} does, and when the server falls silent. */
  async *lines(call: ApiCall): AsyncGenerator<string, void, undefined> {
    const silent = new AbortController();
    const signal = call.signal ? AbortSignal.any([call.signal, silent.signal]) : silent.signal;
    const guard = setTimeout(() => silent.abort(new Error("the API server fell silent")), SILENT_MS);
    try {
      const response = await this.#open(call, signal);
      response.setEncoding("utf8");
      let rest = "";
      for await (const chunk of response as AsyncIterable<string>) {
        guard.refresh();
        const lines = (rest + chunk).split("\n");
        rest = lines.pop() ?? "";
        yield* lines.filter((line) => line !== "");
      }
    } catch (error) {
      call.signal?.throwIfAborted();
      throw outwardError(call, error);
    } finally {
      clearTimeout(guard);
    }
  }

  /** Gives its connections back. */
  close(): void {
    this.#agent.destroy();
  }

  async #open(call: ApiCall, signal: AbortSignal): Promise<IncomingMessage> {
    const response = await this.#send(call, await this.#login(), signal);
    if (response.statusCode !== 401) return checked(call, response);
    // A token that was taken back, or rotated since it was read.
    response.resume();
    this.#config = loadConfig(this.#options);
    this.#credentials = undefined;
    return checked(call, await this.#send(call, await this.#login(), signal));
  }

  async #login(): Promise<RequestOptions> {
    const now = performance.now();
    if (this.#credentials === undefined || this.#credentials.untilMs < now) {
      const options: RequestOptions = {};
      await this.#config.applyToHTTPSOptions(options);
      // The library makes an agent for each call; ours keeps connections. A proxy needs the library's.
      const isProxied = this.#config.getCurrentCluster()?.proxyUrl !== undefined;
      this.#credentials = {
        options: isProxied ? options : { ...options, agent: this.#agent },
        untilMs: now + CREDENTIALS_MS,
      };
    }
    return this.#credentials.options;
  }

  #send(call: ApiCall, login: RequestOptions, signal: AbortSignal): Promise<IncomingMessage> {
    const url = new URL(`${this.#server()}${call.path}`);
    for (const [name, value] of Object.entries(call.query ?? {})) url.searchParams.set(name, String(value));
    const body = call.body === undefined ? undefined : JSON.stringify(call.body);
    const isPatch = call.method === "PATCH";
    const contentType = isPatch ? (call.contentType ?? "application/merge-patch+json") : "application/json";
    const headers = {
      ...login.headers,
      accept: "application/json, */*",
      ...(body === undefined ? {} : { "content-type": contentType, "content-length": Buffer.byteLength(body) }),
    };
    return new Promise((resolve, reject) => {
      const isSecure = url.protocol === "https:";
      const options = { ...login, method: call.method, headers, signal, ...(isSecure ? {} : { agent: undefined }) };
      const request = isSecure ? httpsRequest(url, options) : httpRequest(url, options);
      request.on("socket", (socket) => socket.setKeepAlive(true, KEEP_ALIVE_MS));
      request.on("response", resolve);
      request.on("error", reject);
      request.end(body);
    });
  }

  #server(): string {
    return this.#config.getCurrentCluster()?.server.replace(/\/+$/, "") ?? "";
  }
}

function loadConfig({ kubeconfig }: KubernetesApiOptions): KubeConfig {
  const config = new KubeConfig();
  try {
    if (kubeconfig === undefined) config.loadFromDefault();
    else config.loadFromFile(kubeconfig);
  } catch (cause) {
    throw new AppError("configuration_invalid", "The configuration of the Kubernetes cluster cannot be read.", {
      cause,
    });
  }
  if (config.getCurrentCluster()) return config;
  const fix = "In a pod it is the service account's; elsewhere KUBECONFIG names a file.";
  throw new AppError("configuration_invalid", `There is no configuration of a Kubernetes cluster. ${fix}`);
}

async function collect(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes > MAX_BYTES) {
      throw new AppError("unavailable", `The API server's answer is longer than ${String(MAX_BYTES)} bytes.`);
    }
  }
  return Buffer.concat(chunks).toString("utf8");
}

async function checked(call: ApiCall, response: IncomingMessage): Promise<IncomingMessage> {
  const status = response.statusCode ?? 0;
  if (status >= 200 && status < 300) return response;
  throw refusal(call, status, statusMessage(await collect(response)));
}

/** The reason and message of a `Status` object (API conventions, "Response Status Kind"). */
interface ApiStatus {
  readonly reason?: string;
  readonly message?: string;
}

function statusMessage(text: string): ApiStatus {
  try {
    const { reason, message } = JSON.parse(text) as ApiStatus;
    return { ...(reason === undefined ? {} : { reason }), ...(message === undefined ? {} : { message }) };
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return {};
  }
}

function refusal(call: ApiCall, status: number, { reason, message }: ApiStatus): ApiRefusal {
  const what = `The Kubernetes API refused ${call.method} ${call.path} (${String(status)} ${reason ?? "without a reason"})`;
  const said = message === undefined ? "." : `: ${message}`;
  const details = { httpStatus: status, ...(reason === undefined ? {} : { reason }) };
  if (status === 401 || status === 403) {
    const fix = " See that the agent's Role allows it (docs/decisions/0017).";
    return new ApiRefusal(status, "access_refused", `${what}${said}${fix}`, { details });
  }
  if (status === 404) return new ApiRefusal(status, "not_found", `${what}${said}`, { details });
  if (status === 409) {
    const code = reason === "AlreadyExists" ? "already_exists" : "conflict";
    return new ApiRefusal(status, code, `${what}${said}`, { details });
  }
  // 408, 410 and 429 pass, and so does whatever the server has to answer for.
  const isPassing = status >= 500 || status === 408 || status === 410 || status === 429;
  return new ApiRefusal(status, isPassing ? "unavailable" : "invalid_argument", `${what}${said}`, { details });
}

function outwardError(call: ApiCall, error: unknown): unknown {
  if (error instanceof AppError) return error;
  const message = `The Kubernetes API does not answer ${call.method} ${call.path}; see that it can be reached from here.`;
  return new AppError("unavailable", message, { cause: error });
}
