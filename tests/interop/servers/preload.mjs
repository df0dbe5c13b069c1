// Runs before a server that nobody here wrote: it listens on loopback at our port, and wants our token. PORT, AGENT_TOKEN.
import http from "node:http";
import net from "node:net";

const port = Number(process.env.PORT);
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...given) {
  const done = given.findLast((one) => typeof one === "function");
  return listen.call(this, { port, host: "127.0.0.1" }, done);
};

const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (name, request, response) {
  const isPublic = request?.url?.includes(".well-known");
  if (name === "request" && !isPublic && request.headers.authorization !== `Bearer ${process.env.AGENT_TOKEN}`) {
    response.writeHead(401, { "WWW-Authenticate": "Bearer" }).end();
    return true;
  }
  return emit.apply(this, arguments);
};
