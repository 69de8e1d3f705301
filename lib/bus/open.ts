/** Chooses the message bus adapter from its URL; the only file that knows them all. */

import { systemClock, type Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { parseEmbeddedBusUrl } from "./embedded-url.ts";
import type { MessageBus } from "./message-bus.ts";

export { embeddedBusUrl, parseEmbeddedBusUrl, type EmbeddedBusPlace } from "./embedded-url.ts";

/** What every adapter may be given. */
export interface OpenMessageBusOptions {
  readonly clock?: Clock;
}

/**
 * Opens a bus: `embedded:<path of the SQLite file>`, perhaps with `?maxBytes=`, what it may grow to; RabbitMQ at `amqp://…` or `amqps://…` (docs/configuration.md has the
 * whole form); or `sidecar:127.0.0.1:<port>` and `sidecar:unix:<path>` for the messaging sidecar beside this process. Adapters
 * are imported only when chosen, so that an embedded run loads no AMQP client. An unknown URL is `configuration_invalid`; a bus
 * that does not answer `unavailable`; one that refuses the user `access_refused`.
 */
export async function openMessageBus(url: string, options: OpenMessageBusOptions = {}): Promise<MessageBus> {
  const clock = options.clock ?? systemClock;
  const file = parseEmbeddedBusUrl(url);
  if (file !== undefined) {
    const { openEmbeddedBus } = await import("./embedded.ts");
    const { path, maxBytes } = file;
    return openEmbeddedBus({ path, clock, ...(maxBytes === undefined ? {} : { maxFileBytes: maxBytes }) });
  }
  const separator = url.indexOf(":");
  const scheme = separator < 0 ? url : url.slice(0, separator);
  switch (scheme) {
    case "sidecar": {
      const { parseRpcAddress } = await import("../rpc/address.ts");
      const { openSidecarBus } = await import("./sidecar.ts");
      return openSidecarBus({ address: parseRpcAddress(url.slice(separator + 1)), clock });
    }
    case "amqp":
    case "amqps": {
      const { openRabbitMqBus } = await import("./rabbitmq.ts");
      return openRabbitMqBus({ url, clock });
    }
    default:
      // The URL may hold a password, so only its scheme is named.
      throw invalid(`Unknown message bus "${scheme}:"; known: embedded:<path>, amqp[s]://<host>, sidecar:<address>.`);
  }
}

function invalid(message: string): AppError {
  return new AppError("configuration_invalid", message);
}
