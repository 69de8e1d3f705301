/**
 * Users of RabbitMQ and their permissions in one virtual host, made and removed over its management API (HTTP) by one who has
 * the tag `administrator`.
 */
import { AppError, type ErrorCode } from "../errors.ts";
import { secretFileText } from "../secret-files.ts";
import type { RabbitMqPermissions } from "./rabbitmq-permissions.ts";
import { EXCHANGE } from "./rabbitmq-topology.ts";

/** Longest time for one request, in milliseconds. */
const TIMEOUT_MS = 10_000;
const FORM = "http[s]://USER[:PASSWORD]@HOST[:PORT][?passwordFile=FILE]";

/** Where the management API is, and who comes. */
export interface RabbitMqUsersOptions {
  /** `http[s]://user[:password]@host[:port][?passwordFile=…]`. For TLS the authorities count that Node.js trusts. */
  readonly managementUrl: string;
  /** The virtual host that the permissions are for. */
  readonly vhost: string;
}

/**
 * Opens the users. `configuration_invalid` for a wrong URL or virtual host, `unavailable` when nobody answers,
 * `access_refused` for one who may make no users.
 */
export async function openRabbitMqUsers({ managementUrl, vhost }: RabbitMqUsersOptions): Promise<RabbitMqUsers> {
  const url = parseUrl(managementUrl);
  const passwordFile = url.searchParams.get("passwordFile");
  const password = passwordFile === null ? decodeURIComponent(url.password) : await secretFileText(passwordFile);
  const users = new RabbitMqUsers(url.origin + url.pathname.replace(/\/$/, ""), vhost, {
    user: decodeURIComponent(url.username),
    password,
  });
  await users.requireVhost();
  return users;
}

/** See the file comment. */
export class RabbitMqUsers {
  readonly #origin: string;
  readonly #vhost: string;
  readonly #login: { readonly user: string; readonly password: string };

  constructor(origin: string, vhost: string, login: { readonly user: string; readonly password: string }) {
    this.#origin = origin;
    this.#vhost = vhost;
    this.#login = login;
  }

  /** Fails with `configuration_invalid` when the broker has no such virtual host. */
  async requireVhost(): Promise<void> {
    if ((await this.#request("GET", `/vhosts/${encodeURIComponent(this.#vhost)}`)) !== undefined) return;
    throw new AppError(
      "configuration_invalid",
      `RabbitMQ at ${this.#origin} has no virtual host "${this.#vhost}": make it (rabbitmqctl add_vhost), or name another one in the broker's URL.`,
    );
  }

  /** The names of all users who have permissions in this virtual host. */
  async list(): Promise<readonly string[]> {
    const permissions = await this.#request("GET", `/vhosts/${encodeURIComponent(this.#vhost)}/permissions`);
    return ((permissions ?? []) as readonly { readonly user: string }[]).map(({ user }) => user);
  }

  /** Makes a user with exactly these permissions, or gives one that is there a new password and these permissions. */
  async put(name: string, password: string, { topic, ...general }: RabbitMqPermissions): Promise<void> {
    const place = `${encodeURIComponent(this.#vhost)}/${encodeURIComponent(name)}`;
    await this.#request("PUT", `/users/${encodeURIComponent(name)}`, { password, tags: "" });
    // Topics first: whoever has permissions and no topic permissions may publish and bind under any key.
    await this.#request("PUT", `/topic-permissions/${place}`, { exchange: EXCHANGE, ...topic });
    await this.#request("PUT", `/permissions/${place}`, general);
  }

  /** Removes a user; the broker ends its connections. One who is not there is removed already. */
  async remove(name: string): Promise<void> {
    await this.#request("DELETE", `/users/${encodeURIComponent(name)}`);
  }

  /** Deletes the queues of this virtual host whose names match. */
  async removeQueues(pattern: RegExp): Promise<void> {
    const path = `/queues/${encodeURIComponent(this.#vhost)}`;
    const queues = ((await this.#request("GET", path)) ?? []) as readonly { readonly name: string }[];
    for (const { name } of queues.filter((queue) => pattern.test(queue.name))) {
      await this.#request("DELETE", `${path}/${encodeURIComponent(name)}`);
    }
  }

  /** The answer; undefined for an empty one, and for what is not there. */
  async #request(method: string, path: string, body?: unknown): Promise<unknown> {
    const { user, password } = this.#login;
    const answer = await this.#fetch(`${this.#origin}/api${path}`, {
      method,
      headers: {
        authorization: `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}`,
        "content-type": "application/json",
      },
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT_MS),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    if (answer.status === 404 && method !== "PUT") return undefined;
    if (!answer.ok) throw this.#refused(answer.status, method, path);
    return text === "" ? undefined : (JSON.parse(text) as unknown);
  }

  async #fetch(url: string, options: RequestInit): Promise<Response> {
    try {
      return await fetch(url, options);
    } catch (error) {
      const reason = (error as Error).cause ?? error;
      throw new AppError(
        "unavailable",
        `RabbitMQ's management at ${this.#origin} cannot be reached: ${String(reason)}. Switch it on (rabbitmq-plugins enable rabbitmq_management), and name its own port (15672 or 15671), not that of AMQP.`,
        { cause: error },
      );
    }
  }

  #refused(status: number, method: string, path: string): AppError {
    const isLogin = status === 401 || status === 403;
    const code: ErrorCode = isLogin ? "access_refused" : status >= 500 ? "unavailable" : "internal";
    const fix = isLogin
      ? `check the password, and give the user the tag administrator (rabbitmqctl set_user_tags ${this.#login.user} administrator).`
      : "see the broker's log.";
    return new AppError(
      code,
      `RabbitMQ's management at ${this.#origin} refuses ${method} ${path} by user "${this.#login.user}" (${String(status)}): ${fix}`,
    );
  }
}

function parseUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isWhole = url !== undefined && /^https?:$/.test(url.protocol) && url.username !== "";
  const names = [...(url?.searchParams.keys() ?? [])];
  if (isWhole && names.every((name) => name === "passwordFile") && !(url.password !== "" && names.length > 0))
    return url;
  // The URL itself may hold a password, so it is not shown.
  throw new AppError("configuration_invalid", `The URL of RabbitMQ's management is wrong: it has the form ${FORM}.`);
}
