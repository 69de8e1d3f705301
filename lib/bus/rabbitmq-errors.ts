/** RabbitMQ's refusals and amqplib's failures as our errors. */

import { AppError, type ErrorCode } from "../errors.ts";
import type { RabbitMqAddress } from "./rabbitmq-address.ts";

/** Reply codes of AMQP 0-9-1 (section 1.2.2, "Reply constants") that mean: asking again will not help. */
const REFUSALS: Readonly<Record<number, ErrorCode>> = {
  403: "access_refused", // ACCESS_REFUSED
  404: "not_found", // NOT_FOUND
  405: "conflict", // RESOURCE_LOCKED
  406: "conflict", // PRECONDITION_FAILED
  530: "access_refused", // NOT_ALLOWED
};

/** What the broker says with 404 of a queue that is there, while its node or process is not: it passes. */
const PASSING = /home node .* is down|process is stopped|failed to perform operation on queue/;

/** The broker's refusal of one operation as an error, or undefined when it failed for want of a connection. */
export function refusal(error: unknown, address: RabbitMqAddress): AppError | undefined {
  if (error instanceof AppError) return error;
  const { code, message } = error as { readonly code?: unknown; readonly message: string };
  const ours = typeof code === "number" && !PASSING.test(message) ? REFUSALS[code] : undefined;
  if (ours === undefined) return undefined;
  const said = brokerText(message);
  if (ours === "access_refused") return accessRefused(said, address, error);
  return new AppError(ours, `RabbitMQ at ${address.label} refuses: ${said}`, { cause: error, retryable: false });
}

/** The `access_refused` that names the user and what helps. */
export function accessRefused(said: string, address: RabbitMqAddress, cause: unknown): AppError {
  return new AppError(
    "access_refused",
    `RabbitMQ at ${address.label} refuses user "${address.user}": ${said} Give the user that permission ` +
      `(rabbitmqctl set_permissions, set_topic_permissions), or name another user in the bus's URL.`,
    { cause },
  );
}

/** What amqplib failed with as `unavailable`. */
export function unreachable(error: unknown, address: RabbitMqAddress): AppError {
  if (error instanceof AppError) return error;
  const text = error instanceof Error ? error.message : String(error);
  if (text.includes("No channels left"))
    return new AppError(
      "unavailable",
      `This process has as many channels to RabbitMQ at ${address.label} as the broker allows one connection: it consumes ` +
        `from too many queues at once. Raise channel_max in rabbitmq.conf, or run fewer runs per process.`,
      { cause: error },
    );
  return new AppError("unavailable", `RabbitMQ at ${address.label} cannot be reached: ${text}.`, { cause: error });
}

/**
 * Why connecting failed, when no waiting heals it: credentials, virtual host, certificates, files. Undefined for the rest.
 * During the handshake amqplib has only texts.
 */
export function connectRefusal(error: unknown, address: RabbitMqAddress): AppError | undefined {
  if (error instanceof AppError) return error;
  const { code, message } = error as { readonly code?: unknown; readonly message: string };
  if (/\b403\b/.test(message) || code === 403) {
    return new AppError(
      "access_refused",
      `RabbitMQ at ${address.label} refuses the credentials of user "${address.user}". Check the password, or its passwordFile.`,
      { cause: error },
    );
  }
  if (message.startsWith("Expected ConnectionOpenOk")) {
    return new AppError(
      "access_refused",
      `RabbitMQ at ${address.label} has no virtual host "${address.vhost}", or user "${address.user}" may not use it. ` +
        `Make it (rabbitmqctl add_vhost), and give the user permissions in it (rabbitmqctl set_permissions).`,
      { cause: error },
    );
  }
  if (typeof code === "string" && /CERT|_TLS_|VERIFY|SELF_SIGNED|_SSL_|_PEM_|ERR_OSSL/.test(code)) {
    return new AppError(
      "configuration_invalid",
      `The TLS connection to RabbitMQ at ${address.label} fails: ${message} [${code}]. Check caFile, certFile and keyFile ` +
        `of the bus's URL, and that the broker's certificate names this host.`,
      { cause: error },
    );
  }
  return undefined;
}

/** The queue whose topic the broker refused, if that is what an error says. */
export function refusedTopic(error: Error): string | undefined {
  return /access to topic '(.*?)' in exchange/s.exec(error.message)?.[1];
}

/** The broker's own sentence out of amqplib's. */
function brokerText(message: string): string {
  const said = /with message "(.*)"$/s.exec(message)?.[1] ?? message;
  return said.endsWith(".") ? said : `${said}.`;
}
