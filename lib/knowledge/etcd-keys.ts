/** The port's keys as etcd's: bytes, below the prefix that the URL names. */
import { AppError } from "../errors.ts";
import { checkedKey, checkedPrefix } from "./argument-checks.ts";

/** A range of keys as etcd takes it: `range_end` is exclusive; one zero byte: no end. */
export interface EtcdRange {
  readonly key: Buffer;
  readonly range_end: Buffer;
}

const ZERO_BYTE = Buffer.from([0]);

/** See the file comment. */
export class EtcdKeys {
  readonly prefix: string;

  constructor(prefix: string) {
    this.prefix = prefix;
  }

  /** Where a key of the port lies. Fails with `invalid_argument`. */
  toEtcd(key: string): Buffer {
    return Buffer.from(`${this.prefix}${checkedKey(key)}`);
  }

  /** The port's key at this place. */
  fromEtcd(bytes: Buffer): string {
    const key = bytes.toString("utf8");
    if (key.startsWith(this.prefix)) return key.slice(this.prefix.length);
    throw new AppError("internal", "etcd answered with a key outside of the range that was asked for.");
  }

  /** All keys that start with `prefix`. Fails with `invalid_argument`. */
  range(prefix: string): EtcdRange {
    // With a prefix of our own, "all" begins behind its slash: `/a` is also what another one's `/ab` starts with.
    const start = `${this.prefix}${checkedPrefix(prefix) || (this.prefix === "" ? "" : "/")}`;
    if (start === "") return { key: ZERO_BYTE, range_end: ZERO_BYTE };
    const end = Buffer.from(start);
    // No byte of UTF-8 is 0xFF, so the last one can always be raised.
    end.writeUInt8(end.readUInt8(end.length - 1) + 1, end.length - 1);
    return { key: Buffer.from(start), range_end: end };
  }
}

/** The rest of a range behind a key. */
export function rangeBehind(key: Buffer, { range_end }: EtcdRange): EtcdRange {
  return { key: Buffer.concat([key, ZERO_BYTE]), range_end };
}
