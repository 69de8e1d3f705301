/** Users and roles of etcd, made and removed by one who has its role `root`. Each user has one role, of the same name. */
import { type IPermission } from "etcd3";
import { type Clock, systemClock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { EtcdCalls } from "./etcd-calls.ts";
import { type EtcdConnection, EtcdConnections } from "./etcd-connection.ts";
import { EtcdFailure, type GrpcFailure } from "./etcd-errors.ts";
import { EtcdKeys, type EtcdRange } from "./etcd-keys.ts";
import { type EtcdRight } from "./etcd-permissions.ts";
import { type EtcdPlace, describePlace, parseEtcdUrl, readCredentials } from "./etcd-url.ts";
import { StoreMetrics } from "./store-metrics.ts";

/** Longest time for one request, in milliseconds: each change of users goes through the whole cluster. */
const TIMEOUT_MS = 10_000;

/** The user and the role that may do everything, by etcd's own rule. */
const ROOT = "root";

const PERMISSION_TYPES = { read: "Read", readwrite: "Readwrite" } as const satisfies Record<
  EtcdRight["mode"],
  IPermission["permType"]
>;

/**
 * Opens the users of the etcd that a URL names, as the user in it. Fails as opening the store does; with
 * `configuration_invalid` where users are not switched on, since everybody may do everything there.
 */
export async function openEtcdUsers(url: string, clock: Clock = systemClock): Promise<EtcdUsers> {
  const users = new EtcdUsers(parseEtcdUrl(url), clock);
  try {
    await users.requireSwitchedOn();
    return users;
  } catch (error) {
    users.close();
    throw error;
  }
}

/**
 * Switches users on at the etcd that a URL names, which it does by nobody's leave as long as they are off: the URL's user, `root`,
 * is made with its password. Where they are on already, nothing changes. Fails as opening the store does, and with
 * `configuration_invalid` for another user than root, without whom etcd switches nothing on.
 */
export async function switchOnEtcdUsers(url: string, clock: Clock = systemClock): Promise<void> {
  const place = parseEtcdUrl(url);
  if (place.user !== ROOT) {
    throw new AppError(
      "configuration_invalid",
      `The URL of ${describePlace(place)} names ${place.user === undefined ? "no user" : `the user "${place.user}"`}: users are switched on by ${ROOT}, with its passwordFile.`,
    );
  }
  const users = new EtcdUsers(place, clock);
  try {
    await users.switchOn();
  } finally {
    users.close();
  }
}

/** See the file comment. Close it in the end. */
export class EtcdUsers {
  readonly #place: EtcdPlace;
  readonly #keys: EtcdKeys;
  readonly #calls: EtcdCalls;
  readonly #clock: Clock;

  constructor(place: EtcdPlace, clock: Clock) {
    const metrics = new StoreMetrics();
    this.#place = place;
    this.#clock = clock;
    this.#keys = new EtcdKeys(place.prefix);
    const connections = new EtcdConnections(place, clock, metrics);
    this.#calls = new EtcdCalls(connections, this.#keys, { clock, metrics, timeoutMs: TIMEOUT_MS });
  }

  /** Fails with `configuration_invalid` unless this etcd asks who comes. */
  async requireSwitchedOn(): Promise<void> {
    if (await this.#isSwitchedOn()) return;
    const message =
      this.#place.user === undefined
        ? `The URL of ${describePlace(this.#place)} names no user: write root and its passwordFile.`
        : `${describePlace(this.#place)} asks nobody who comes, so that credentials would protect nothing: switch users on ` +
          `(etcdctl user add root; etcdctl user grant-role root root; etcdctl auth enable).`;
    throw new AppError("configuration_invalid", message);
  }

  /** Makes the place's user root, and switches users on, unless they are. Afterwards, open it anew. */
  async switchOn(): Promise<void> {
    if (await this.#isSwitchedOn()) return;
    const { password = "" } = await readCredentials(this.#place);
    await this.#request("userAdd", { name: ROOT, password }, "user name already exists");
    // One who began before us may not have come to the end, and may have had another password.
    await this.#request("userChangePassword", { name: ROOT, password });
    await this.#request("roleAdd", { name: ROOT }, "role name already exists");
    await this.#request("userGrantRole", { user: ROOT, role: ROOT });
    await this.#request("authEnable", {});
  }

  /** The names of all users. */
  async list(): Promise<readonly string[]> {
    const { users } = await this.#request<{ readonly users: readonly string[] }>("userList", {});
    return users;
  }

  /** Makes a user with exactly these rights, or gives one that is there a new password and these rights. */
  async put(name: string, password: string, rights: readonly EtcdRight[]): Promise<void> {
    await this.#request("roleAdd", { name }, "role name already exists");
    await this.#grantExactly(name, rights);
    const isThere = (await this.list()).includes(name);
    await this.#request(isThere ? "userChangePassword" : "userAdd", { name, password });
    await this.#request("userGrantRole", { user: name, role: name });
  }

  /** Removes a user and its role, and then all keys that begin so; what is not there is removed already. */
  async remove(name: string, prefixes: readonly string[]): Promise<void> {
    await this.#request("userDelete", { name }, "user name not found");
    await this.#request("roleDelete", { role: name }, "role name not found");
    for (const prefix of prefixes) {
      const range = this.#keys.range(prefix);
      await this.#calls.during(
        "delete",
        prefix,
        (call) => this.#calls.unary(call, "KV.deleteRange", range, "safe"),
        true,
      );
    }
  }

  close(): void {
    this.#calls.close();
  }

  /** An etcd with users gives whoever comes a token. */
  async #isSwitchedOn(): Promise<boolean> {
    const connection = await this.#calls.during("users", "", (call) => this.#calls.connection(call));
    return connection.metadata().get("token").length > 0;
  }

  /** Grants first: whoever uses the role meanwhile misses nothing. */
  async #grantExactly(role: string, rights: readonly EtcdRight[]): Promise<void> {
    const wanted = rights.map((right) => ({ permType: PERMISSION_TYPES[right.mode], ...this.#rangeOf(right) }));
    const { perm: before } = await this.#request<{ readonly perm: readonly IPermission[] }>("roleGet", { role });
    for (const perm of wanted) await this.#request("roleGrantPermission", { name: role, perm });
    const kept = new Set(wanted.map(placeOf));
    for (const perm of before.filter((each) => !kept.has(placeOf(each)))) {
      await this.#request("roleRevokePermission", { role, key: perm.key, range_end: perm.range_end });
    }
  }

  #rangeOf({ key, isPrefix }: EtcdRight): EtcdRange {
    return isPrefix ? this.#keys.range(key) : { key: this.#keys.toEtcd(key), range_end: Buffer.alloc(0) };
  }

  /** One request; an answer that contains `accepted` is no failure. */
  async #request<Response>(method: string, request: object, accepted?: string): Promise<Response> {
    return this.#calls.during("users", "", async (call) => {
      try {
        return await this.#calls.repeat(call, "safe", (connection) =>
          this.#unary<Response>(connection, method, request),
        );
      } catch (error) {
        const details = error instanceof EtcdFailure ? error.failure.details : "";
        if (accepted !== undefined && details.includes(accepted)) return {} as Response;
        throw details.includes("permission denied") ? this.#notRoot(error) : error;
      }
    });
  }

  #unary<Response>(connection: EtcdConnection, method: string, request: object): Promise<Response> {
    return new Promise((resolve, reject) => {
      const answered = (failure: GrpcFailure | null, response: Response): void =>
        failure === null ? resolve(response) : reject(new EtcdFailure(failure));
      const options = { deadline: this.#clock.now() + TIMEOUT_MS };
      connection.service("Auth")[method]?.(request, connection.metadata(), options, answered);
    });
  }

  #notRoot(cause: unknown): AppError {
    return new AppError(
      "access_refused",
      `${describePlace(this.#place)} lets the user "${this.#place.user ?? ""}" make no users: name one who has the role root.`,
      { cause },
    );
  }
}

function placeOf({ key, range_end }: EtcdRange): string {
  return `${key.toString("hex")} ${range_end.toString("hex")}`;
}
