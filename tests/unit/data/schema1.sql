BEGIN TRANSACTION;
CREATE TABLE calls(
    sid INTEGER NOT NULL,
    request TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    day INTEGER NOT NULL,
    requested INTEGER NOT NULL,
    responded INTEGER NOT NULL,
    finish_reason TEXT,
    response_us INTEGER,
    first_token_us INTEGER,
    usage_rank INTEGER NOT NULL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    total_tokens INTEGER,
    cached_tokens INTEGER,
    reasoning_tokens INTEGER,
    priced INTEGER NOT NULL,
    currency TEXT,
    input_cost INTEGER,
    output_cost INTEGER,
    total_cost INTEGER,
    PRIMARY KEY(sid, request)
) WITHOUT ROWID;
INSERT INTO "calls" VALUES(1,'mia''s-0','anthropic','model-0',20452,1,1,'stop',0,125000,1,100,0,100,7,NULL,0,NULL,NULL,NULL,NULL);
INSERT INTO "calls" VALUES(1,'mia''s-1','openai','model-1',20453,1,1,'stop',125000,125000,2,200,2,202,NULL,1,1,'EUR',1,1000000000000,1000000000001);
INSERT INTO "calls" VALUES(1,'mia''s-2','anthropic','model-2',20452,1,1,'stop',250000,125000,1,102,2,104,7,NULL,1,'USD',1,2000000000000,2000000000001);
INSERT INTO "calls" VALUES(1,'mia''s-3','openai','model-0',20453,1,0,'error',250000,NULL,0,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL);
INSERT INTO "calls" VALUES(3,'ravi-0','anthropic','model-0',20452,1,1,'stop',0,125000,1,100,0,100,7,NULL,0,NULL,NULL,NULL,NULL);
INSERT INTO "calls" VALUES(3,'ravi-1','openai','model-1',20453,1,1,'stop',125000,125000,2,200,2,202,NULL,1,1,'EUR',1,1000000000000,1000000000001);
INSERT INTO "calls" VALUES(3,'ravi-2','anthropic','model-2',20452,1,1,'stop',250000,125000,1,102,2,104,7,NULL,1,'USD',1,2000000000000,2000000000001);
INSERT INTO "calls" VALUES(3,'ravi-3','openai','model-0',20453,1,0,'error',250000,NULL,0,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL);
INSERT INTO "calls" VALUES(4,'nobody''s-0','anthropic','model-0',20452,1,1,'stop',0,125000,1,100,0,100,7,NULL,0,NULL,NULL,NULL,NULL);
INSERT INTO "calls" VALUES(4,'nobody''s-1','openai','model-1',20453,1,1,'stop',125000,125000,2,200,2,202,NULL,1,1,'EUR',1,1000000000000,1000000000001);
INSERT INTO "calls" VALUES(4,'nobody''s-2','anthropic','model-2',20452,1,1,'stop',250000,125000,1,102,2,104,7,NULL,1,'USD',1,2000000000000,2000000000001);
INSERT INTO "calls" VALUES(4,'nobody''s-3','openai','model-0',20453,1,0,'error',250000,NULL,0,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL);
CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "counters" VALUES('epoch',5);
CREATE TABLE idempotency(
    sid INTEGER NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    PRIMARY KEY(sid, key)
) WITHOUT ROWID;
INSERT INTO "idempotency" VALUES(1,'mia''s 1',X'891E6F909634B8E42FE3CC271E2F8A60',1,7,14);
INSERT INTO "idempotency" VALUES(1,'mia''s 3',X'515509F590A9A981CED296CB4D3D969F',1,22,27);
INSERT INTO "idempotency" VALUES(3,'ravi 1',X'2F1E8649F7AC7275387D70F7E330D74A',3,7,14);
INSERT INTO "idempotency" VALUES(3,'ravi 3',X'CAB49E55471320E1DC2319BCE33E2C81',3,22,27);
INSERT INTO "idempotency" VALUES(4,'nobody''s 1',X'0126AF382F7A6318BC7EF4D851DAE2C9',4,7,14);
INSERT INTO "idempotency" VALUES(4,'nobody''s 3',X'E154870E0F6D93C4EAD7C6CF3290137B',4,22,27);
CREATE TABLE records(
    rowid INTEGER PRIMARY KEY,
    sid INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    type INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    id BLOB NOT NULL,
    body TEXT NOT NULL,
    crc INTEGER NOT NULL
);
INSERT INTO "records" VALUES(1,1,1,1,1795311313370386,X'01A200E4A1DA7000800000974D872075','{"record_type":"message","role":"user","parts":[{"type":"text","text":"Where is my order 0? Straße, 日本語 🚀"}]}',2711437176);
INSERT INTO "records" VALUES(2,1,2,3,1767132000000000,X'01A200E4A1DA7000800001974D872075','{"record_type":"llm_request","request_id":"mia''s-0","provider":"anthropic","model":"model-0","parameters":{"temperature":0},"from_seq":1,"to_seq":2}',752346232);
INSERT INTO "records" VALUES(3,1,3,4,1767132000000000,X'01A200E4A1DA7000800002974D872075','{"record_type":"llm_response","request_id":"mia''s-0","provider":"anthropic","model":"model-0-2025-01-01","finish_reason":"stop","usage":{"input_tokens":100,"output_tokens":0,"cached_tokens":7},"response_time":0.0,"time_to_first_token":0.125}',2362919879);
INSERT INTO "records" VALUES(4,1,4,1,1795311313370484,X'01A200E4A1DA7000800003974D872075','{"record_type":"message","role":"assistant","parts":[{"type":"text","text":"I look."},{"type":"tool_call","id":"c0","name":"look_up","arguments":"{\"order\": 42}"}],"mood":{"joy":0.5}}',2608845342);
INSERT INTO "records" VALUES(5,1,5,1,1795311313370496,X'01A200E4A1DA7000800004974D872075','{"record_type":"message","role":"tool","parts":[{"type":"tool_result","id":"c0","result":{"state":"on its way"}}]}',1333639213);
INSERT INTO "records" VALUES(6,1,6,2,1795311313370505,X'01A200E4A1DA7000800005974D872075','{"record_type":"tool_call","name":"look_up","input":{"order":42},"output":[1,null],"duration":0.5}',2094155204);
INSERT INTO "records" VALUES(7,3,1,1,1795311313374793,X'01A200E4A1DE7000800006974D872075','{"record_type":"message","role":"user","parts":[{"type":"text","text":"Where is my order 0? Straße, 日本語 🚀"}]}',1328470345);
INSERT INTO "records" VALUES(8,3,2,3,1767132000000000,X'01A200E4A1DE7000800007974D872075','{"record_type":"llm_request","request_id":"ravi-0","provider":"anthropic","model":"model-0","parameters":{"temperature":0},"from_seq":1,"to_seq":2}',3921855681);
INSERT INTO "records" VALUES(9,3,3,4,1767132000000000,X'01A200E4A1DE7000800008974D872075','{"record_type":"llm_response","request_id":"ravi-0","provider":"anthropic","model":"model-0-2025-01-01","finish_reason":"stop","usage":{"input_tokens":100,"output_tokens":0,"cached_tokens":7},"response_time":0.0,"time_to_first_token":0.125}',739617280);
INSERT INTO "records" VALUES(10,3,4,1,1795311313374881,X'01A200E4A1DE7000800009974D872075','{"record_type":"message","role":"assistant","parts":[{"type":"text","text":"I look."},{"type":"tool_call","id":"c0","name":"look_up","arguments":"{\"order\": 42}"}],"mood":{"joy":0.5}}',3572973191);
INSERT INTO "records" VALUES(11,3,5,1,1795311313374888,X'01A200E4A1DE700080000A974D872075','{"record_type":"message","role":"tool","parts":[{"type":"tool_result","id":"c0","result":{"state":"on its way"}}]}',4190215391);
INSERT INTO "records" VALUES(12,3,6,2,1795311313374894,X'01A200E4A1DE700080000B974D872075','{"record_type":"tool_call","name":"look_up","input":{"order":42},"output":[1,null],"duration":0.5}',3260859371);
INSERT INTO "records" VALUES(13,4,1,1,1795311313378027,X'01A200E4A1E2700080000C974D872075','{"record_type":"message","role":"user","parts":[{"type":"text","text":"Where is my order 0? Straße, 日本語 🚀"}]}',849417620);
INSERT INTO "records" VALUES(14,4,2,3,1767132000000000,X'01A200E4A1E2700080000D974D872075','{"record_type":"llm_request","request_id":"nobody''s-0","provider":"anthropic","model":"model-0","parameters":{"temperature":0},"from_seq":1,"to_seq":2}',969919418);
INSERT INTO "records" VALUES(15,4,3,4,1767132000000000,X'01A200E4A1E2700080000E974D872075','{"record_type":"llm_response","request_id":"nobody''s-0","provider":"anthropic","model":"model-0-2025-01-01","finish_reason":"stop","usage":{"input_tokens":100,"output_tokens":0,"cached_tokens":7},"response_time":0.0,"time_to_first_token":0.125}',3440930170);
INSERT INTO "records" VALUES(16,4,4,1,1795311313378091,X'01A200E4A1E2700080000F974D872075','{"record_type":"message","role":"assistant","parts":[{"type":"text","text":"I look."},{"type":"tool_call","id":"c0","name":"look_up","arguments":"{\"order\": 42}"}],"mood":{"joy":0.5}}',3002818707);
INSERT INTO "records" VALUES(17,4,5,1,1795311313378097,X'01A200E4A1E27000800010974D872075','{"record_type":"message","role":"tool","parts":[{"type":"tool_result","id":"c0","result":{"state":"on its way"}}]}',1481150875);
INSERT INTO "records" VALUES(18,4,6,2,1795311313378103,X'01A200E4A1E27000800011974D872075','{"record_type":"tool_call","name":"look_up","input":{"order":42},"output":[1,null],"duration":0.5}',1333002266);
INSERT INTO "records" VALUES(19,1,7,1,1795311313385878,X'01A200E4A1E97000800012974D872075','{"record_type":"message","role":"user","parts":[{"type":"text","text":"Where is my order 1? Straße, 日本語 🚀"}]}',3699349698);
INSERT INTO "records" VALUES(20,1,8,3,1767222060000000,X'01A200E4A1E97000800013974D872075','{"record_type":"llm_request","request_id":"mia''s-1","provider":"openai","model":"model-1","parameters":{"temperature":0},"from_seq":1,"to_seq":2}',1333999045);
INSERT INTO "records" VALUES(21,1,9,4,1767222060000000,X'01A200E4A1E97000800014974D872075','{"record_type":"llm_response","request_id":"mia''s-1","provider":"openai","model":"model-1-2025-01-01","finish_reason":"stop","usage":{"input_tokens":101,"output_tokens":1,"cached_tokens":7},"response_time":0.125,"time_to_first_token":0.125}',3251728052);
INSERT INTO "records" VALUES(22,1,10,5,1767222060000000,X'01A200E4A1E97000800015974D872075','{"record_type":"token_usage","request_id":"mia''s-1","provider":"openai","model":"model-1","input_tokens":200,"output_tokens":2,"reasoning_tokens":1}',3826217346);
INSERT INTO "records" VALUES(23,1,11,6,1767222060000000,X'01A200E4A1E97000800016974D872075','{"record_type":"cost","request_id":"mia''s-1","provider":"openai","model":"model-1","input_cost":"1E-12","output_cost":"1","currency":"EUR"}',2221273881);
INSERT INTO "records" VALUES(24,1,12,1,1795311313385970,X'01A200E4A1E97000800017974D872075','{"record_type":"message","role":"assistant","parts":[{"type":"text","text":"I look."},{"type":"tool_call","id":"c1","name":"look_up","arguments":"{\"order\": 42}"}],"mood":{"joy":0.5}}',4070438897);
INSERT INTO "records" VALUES(25,1,13,1,1795311313385976,X'01A200E4A1E97000800018974D872075','{"record_type":"message","role":"tool","parts":[{"type":"tool_result","id":"c1","result":{"state":"on its way"}}]}',2349351731);
INSERT INTO "records" VALUES(26,1,14,2,1795311313385981,X'01A200E4A1E97000800019974D872075','{"record_type":"tool_call","name":"look_up","input":{"order":42},"output":[1,null],"duration":0.5}',3231510003);
INSERT INTO "records" VALUES(27,3,7,1,1795311313387412,X'01A200E4A1EB700080001A974D872075','{"record_type":"message","role":"user","parts":[{"type":"text","text":"Where is my order 1? Straße, 日本語 🚀"}]}',514502206);
INSERT INTO "records" VALUES(28,3,8,3,1767222060000000,X'01A200E4A1EB700080001B974D872075','{"record_type":"llm_request","request_id":"ravi-1","provider":"openai","model":"model-1","parameters":{"temperature":0},"from_seq":1,"to_seq":2}',1016189640);
INSERT INTO "records" VALUES(29,3,9,4,1767222060000000,X'01A200E4A1EB700080001C974D872075','{"record_type":"llm_response","request_id":"ravi-1","provider":"openai","model":"model-1-2025-01-01","finish_reason":"stop","usage":{"input_tokens":101,"output_tokens":1,"cached_tokens":7},"response_time":0.125,"time_to_first_token":0.125}',3608918117);
INSERT INTO "records" VALUES(30,3,10,5,1767222060000000,X'01A200E4A1EB700080001D974D872075','{"record_type":"token_usage","request_id":"ravi-1","provider":"openai","model":"model-1","input_tokens":200,"output_tokens":2,"reasoning_tokens":1}',611371453);
INSERT INTO "records" VALUES(31,3,11,6,1767222060000000,X'01A200E4A1EB700080001E974D872075','{"record_type":"cost","request_id":"ravi-1","provider":"openai","model":"model-1","input_cost":"1E-12","output_cost":"1","currency":"EUR"}',1874650626);
INSERT INTO "records" VALUES(32,3,12,1,1795311313387487,X'01A200E4A1EB700080001F974D872075','{"record_type":"message","role":"assistant","parts":[{"type":"text","text":"I look."},{"type":"tool_call","id":"c1","name":"look_up","arguments":"{\"order\": 42}"}],"mood":{"joy":0.5}}',1173090853);
INSERT INTO "records" VALUES(33,3,13,1,1795311313387493,X'01A200E4A1EB7000800020974D872075','{"record_type":"message","role":"tool","parts":[{"type":"tool_result","id":"c1","result":{"state":"on its way"}}]}',3951925095);
INSERT INTO "records" VALUES(34,3,14,2,1795311313387498,X'01A200E4A1EB7000800021974D872075','{"record_type":"tool_call","name":"look_up","input":{"order":42},"output":[1,null],"duration":0.5}',2394501495);
INSERT INTO "records" VALUES(35,4,7,1,1795311313393539,X'01A200E4A1F17000800022974D872075','{"record_type":"message","role":"user","parts":[{"type":"text","text":"Where is my order 1? Straße, 日本語 🚀"}]}',3428085187);
INSERT INTO "records" VALUES(36,4,8,3,1767222060000000,X'01A200E4A1F17000800023974D872075','{"record_type":"llm_request","request_id":"nobody''s-1","provider":"openai","model":"model-1","parameters":{"temperature":0},"from_seq":1,"to_seq":2}',382414911);
INSERT INTO "records" VALUES(37,4,9,4,1767222060000000,X'01A200E4A1F17000800024974D872075','{"record_type":"llm_response","request_id":"nobody''s-1","provider":"openai","model":"model-1-2025-01-01","finish_reason":"stop","usage":{"input_tokens":101,"output_tokens":1,"cached_tokens":7},"response_time":0.125,"time_to_first_token":0.125}',1830960676);
INSERT INTO "records" VALUES(38,4,10,5,1767222060000000,X'01A200E4A1F17000800025974D872075','{"record_type":"token_usage","request_id":"nobody''s-1","provider":"openai","model":"model-1","input_tokens":200,"output_tokens":2,"reasoning_tokens":1}',2080717960);
INSERT INTO "records" VALUES(39,4,11,6,1767222060000000,X'01A200E4A1F17000800026974D872075','{"record_type":"cost","request_id":"nobody''s-1","provider":"openai","model":"model-1","input_cost":"1E-12","output_cost":"1","currency":"EUR"}',3325913900);
INSERT INTO "records" VALUES(40,4,12,1,1795311313393611,X'01A200E4A1F17000800027974D872075','{"record_type":"message","role":"assistant","parts":[{"type":"text","text":"I look."},{"type":"tool_call","id":"c1","name":"look_up","arguments":"{\"order\": 42}"}],"mood":{"joy":0.5}}',65263218);
INSERT INTO "records" VALUES(41,4,13,1,1795311313393616,X'01A200E4A1F17000800028974D872075','{"record_type":"message","role":"tool","parts":[{"type":"tool_result","id":"c1","result":{"state":"on its way"}}]}',989245066);
INSERT INTO "records" VALUES(42,4,14,2,1795311313393622,X'01A200E4A1F17000800029974D872075','{"record_type":"tool_call","name":"look_up","input":{"order":42},"output":[1,null],"duration":0.5}',338927113);
INSERT INTO "records" VALUES(43,1,15,1,1795311313397546,X'01A200E4A1F5700080002A974D872075','{"record_type":"message","role":"user","parts":[{"type":"text","text":"Where is my order 2? Straße, 日本語 🚀"}]}',4033931305);
INSERT INTO "records" VALUES(44,1,16,3,1767132120000000,X'01A200E4A1F5700080002B974D872075','{"record_type":"llm_request","request_id":"mia''s-2","provider":"anthropic","model":"model-2","parameters":{"temperature":0},"from_seq":1,"to_seq":2}',321734289);
INSERT INTO "records" VALUES(45,1,17,4,1767132120000000,X'01A200E4A1F5700080002C974D872075','{"record_type":"llm_response","request_id":"mia''s-2","provider":"anthropic","model":"model-2-2025-01-01","finish_reason":"stop","usage":{"input_tokens":102,"output_tokens":2,"cached_tokens":7},"response_time":0.25,"time_to_first_token":0.125}',646202568);
INSERT INTO "records" VALUES(46,1,18,6,1767132120000000,X'01A200E4A1F5700080002D974D872075','{"record_type":"cost","request_id":"mia''s-2","provider":"anthropic","model":"model-2","input_cost":"1E-12","output_cost":"2"}',4226225077);
INSERT INTO "records" VALUES(47,1,19,1,1795311313397605,X'01A200E4A1F5700080002E974D872075','{"record_type":"message","role":"assistant","parts":[{"type":"text","text":"I look."},{"type":"tool_call","id":"c2","name":"look_up","arguments":"{\"order\": 42}"}],"mood":{"joy":0.5}}',4012105142);
INSERT INTO "records" VALUES(48,1,20,1,1795311313397611,X'01A200E4A1F5700080002F974D872075','{"record_type":"message","role":"tool","parts":[{"type":"tool_result","id":"c2","result":{"state":"on its way"}}]}',856330686);
INSERT INTO "records" VALUES(49,1,21,2,1795311313397615,X'01A200E4A1F57000800030974D872075','{"record_type":"tool_call","name":"look_up","input":{"order":42},"output":[1,null],"duration":0.5}',3551410787);
INSERT INTO "records" VALUES(50,3,15,1,1795311313398620,X'01A200E4A1F67000800031974D872075','{"record_type":"message","role":"user","parts":[{"type":"text","text":"Where is my order 2? Straße, 日本語 🚀"}]}',3947981891);
INSERT INTO "records" VALUES(51,3,16,3,1767132120000000,X'01A200E4A1F67000800032974D872075','{"record_type":"llm_request","request_id":"ravi-2","provider":"anthropic","model":"model-2","parameters":{"temperature":0},"from_seq":1,"to_seq":2}',1645490655);
INSERT INTO "records" VALUES(52,3,17,4,1767132120000000,X'01A200E4A1F67000800033974D872075','{"record_type":"llm_response","request_id":"ravi-2","provider":"anthropic","model":"model-2-2025-01-01","finish_reason":"stop","usage":{"input_tokens":102,"output_tokens":2,"cached_tokens":7},"response_time":0.25,"time_to_first_token":0.125}',2582526249);
INSERT INTO "records" VALUES(53,3,18,6,1767132120000000,X'01A200E4A1F67000800034974D872075','{"record_type":"cost","request_id":"ravi-2","provider":"anthropic","model":"model-2","input_cost":"1E-12","output_cost":"2"}',758607722);
INSERT INTO "records" VALUES(54,3,19,1,1795311313398682,X'01A200E4A1F67000800035974D872075','{"record_type":"message","role":"assistant","parts":[{"type":"text","text":"I look."},{"type":"tool_call","id":"c2","name":"look_up","arguments":"{\"order\": 42}"}],"mood":{"joy":0.5}}',546239394);
INSERT INTO "records" VALUES(55,3,20,1,1795311313398687,X'01A200E4A1F67000800036974D872075','{"record_type":"message","role":"tool","parts":[{"type":"tool_result","id":"c2","result":{"state":"on its way"}}]}',1337654822);
INSERT INTO "records" VALUES(56,3,21,2,1795311313398693,X'01A200E4A1F67000800037974D872075','{"record_type":"tool_call","name":"look_up","input":{"order":42},"output":[1,null],"duration":0.5}',3108027108);
INSERT INTO "records" VALUES(57,4,15,1,1795311313399841,X'01A200E4A1F77000800038974D872075','{"record_type":"message","role":"user","parts":[{"type":"text","text":"Where is my order 2? Straße, 日本語 🚀"}]}',629423403);
INSERT INTO "records" VALUES(58,4,16,3,1767132120000000,X'01A200E4A1F77000800039974D872075','{"record_type":"llm_request","request_id":"nobody''s-2","provider":"anthropic","model":"model-2","parameters":{"temperature":0},"from_seq":1,"to_seq":2}',1664481117);
INSERT INTO "records" VALUES(59,4,17,4,1767132120000000,X'01A200E4A1F7700080003A974D872075','{"record_type":"llm_response","request_id":"nobody''s-2","provider":"anthropic","model":"model-2-2025-01-01","finish_reason":"stop","usage":{"input_tokens":102,"output_tokens":2,"cached_tokens":7},"response_time":0.25,"time_to_first_token":0.125}',3648915757);
INSERT INTO "records" VALUES(60,4,18,6,1767132120000000,X'01A200E4A1F7700080003B974D872075','{"record_type":"cost","request_id":"nobody''s-2","provider":"anthropic","model":"model-2","input_cost":"1E-12","output_cost":"2"}',2020248883);
INSERT INTO "records" VALUES(61,4,19,1,1795311313399900,X'01A200E4A1F7700080003C974D872075','{"record_type":"message","role":"assistant","parts":[{"type":"text","text":"I look."},{"type":"tool_call","id":"c2","name":"look_up","arguments":"{\"order\": 42}"}],"mood":{"joy":0.5}}',1736806753);
INSERT INTO "records" VALUES(62,4,20,1,1795311313399906,X'01A200E4A1F7700080003D974D872075','{"record_type":"message","role":"tool","parts":[{"type":"tool_result","id":"c2","result":{"state":"on its way"}}]}',1718366210);
INSERT INTO "records" VALUES(63,4,21,2,1795311313399911,X'01A200E4A1F7700080003E974D872075','{"record_type":"tool_call","name":"look_up","input":{"order":42},"output":[1,null],"duration":0.5}',2754903307);
INSERT INTO "records" VALUES(64,1,22,1,1795311313417558,X'01A200E4A209700080003F974D872075','{"record_type":"message","role":"user","parts":[{"type":"text","text":"Where is my order 3? Straße, 日本語 🚀"}]}',758452295);
INSERT INTO "records" VALUES(65,1,23,3,1767222180000000,X'01A200E4A2097000800040974D872075','{"record_type":"llm_request","request_id":"mia''s-3","provider":"openai","model":"model-0","parameters":{"temperature":0},"from_seq":1,"to_seq":2}',1850428662);
INSERT INTO "records" VALUES(66,1,24,4,1767222180000000,X'01A200E4A2097000800041974D872075','{"record_type":"llm_response","request_id":"mia''s-3","provider":"openai","model":"model-0","finish_reason":"error","response_time":0.25}',4013700501);
INSERT INTO "records" VALUES(67,1,25,1,1795311313417690,X'01A200E4A2097000800042974D872075','{"record_type":"message","role":"assistant","parts":[{"type":"text","text":"I look."},{"type":"tool_call","id":"c3","name":"look_up","arguments":"{\"order\": 42}"}],"mood":{"joy":0.5}}',3964966815);
INSERT INTO "records" VALUES(68,1,26,1,1795311313417699,X'01A200E4A2097000800043974D872075','{"record_type":"message","role":"tool","parts":[{"type":"tool_result","id":"c3","result":{"state":"on its way"}}]}',2586879581);
INSERT INTO "records" VALUES(69,1,27,2,1795311313417741,X'01A200E4A2097000800044974D872075','{"record_type":"tool_call","name":"look_up","input":{"order":42},"output":[1,null],"duration":0.5}',2151007847);
INSERT INTO "records" VALUES(70,3,22,1,1795311313426030,X'01A200E4A2127000800045974D872075','{"record_type":"message","role":"user","parts":[{"type":"text","text":"Where is my order 3? Straße, 日本語 🚀"}]}',61506124);
INSERT INTO "records" VALUES(71,3,23,3,1767222180000000,X'01A200E4A2127000800046974D872075','{"record_type":"llm_request","request_id":"ravi-3","provider":"openai","model":"model-0","parameters":{"temperature":0},"from_seq":1,"to_seq":2}',1271307934);
INSERT INTO "records" VALUES(72,3,24,4,1767222180000000,X'01A200E4A2127000800047974D872075','{"record_type":"llm_response","request_id":"ravi-3","provider":"openai","model":"model-0","finish_reason":"error","response_time":0.25}',849616969);
INSERT INTO "records" VALUES(73,3,25,1,1795311313426081,X'01A200E4A2127000800048974D872075','{"record_type":"message","role":"assistant","parts":[{"type":"text","text":"I look."},{"type":"tool_call","id":"c3","name":"look_up","arguments":"{\"order\": 42}"}],"mood":{"joy":0.5}}',3663111567);
INSERT INTO "records" VALUES(74,3,26,1,1795311313426087,X'01A200E4A2127000800049974D872075','{"record_type":"message","role":"tool","parts":[{"type":"tool_result","id":"c3","result":{"state":"on its way"}}]}',3949050216);
INSERT INTO "records" VALUES(75,3,27,2,1795311313426092,X'01A200E4A212700080004A974D872075','{"record_type":"tool_call","name":"look_up","input":{"order":42},"output":[1,null],"duration":0.5}',1645744776);
INSERT INTO "records" VALUES(76,4,22,1,1795311313431200,X'01A200E4A217700080004B974D872075','{"record_type":"message","role":"user","parts":[{"type":"text","text":"Where is my order 3? Straße, 日本語 🚀"}]}',881223761);
INSERT INTO "records" VALUES(77,4,23,3,1767222180000000,X'01A200E4A217700080004C974D872075','{"record_type":"llm_request","request_id":"nobody''s-3","provider":"openai","model":"model-0","parameters":{"temperature":0},"from_seq":1,"to_seq":2}',4253602503);
INSERT INTO "records" VALUES(78,4,24,4,1767222180000000,X'01A200E4A217700080004D974D872075','{"record_type":"llm_response","request_id":"nobody''s-3","provider":"openai","model":"model-0","finish_reason":"error","response_time":0.25}',1094090782);
INSERT INTO "records" VALUES(79,4,25,1,1795311313431309,X'01A200E4A217700080004E974D872075','{"record_type":"message","role":"assistant","parts":[{"type":"text","text":"I look."},{"type":"tool_call","id":"c3","name":"look_up","arguments":"{\"order\": 42}"}],"mood":{"joy":0.5}}',2775336143);
INSERT INTO "records" VALUES(80,4,26,1,1795311313431315,X'01A200E4A217700080004F974D872075','{"record_type":"message","role":"tool","parts":[{"type":"tool_result","id":"c3","result":{"state":"on its way"}}]}',4053933257);
INSERT INTO "records" VALUES(81,4,27,2,1795311313431321,X'01A200E4A2177000800050974D872075','{"record_type":"tool_call","name":"look_up","input":{"order":42},"output":[1,null],"duration":0.5}',3691154221);
CREATE TABLE sessions(
    sid INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    user_id TEXT,
    title TEXT,
    metadata TEXT NOT NULL DEFAULT '{}',
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    expires INTEGER,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL DEFAULT 0,
    forked_from INTEGER,
    fork_seq INTEGER NOT NULL DEFAULT 0
);
INSERT INTO "sessions" VALUES(1,'mia''s','mia','Order 42','{"shop":[1,{"a":null}]}',1795311313363378,1795311313420885,2051222400000000,1,27,NULL,0);
INSERT INTO "sessions" VALUES(2,'empty','mia',NULL,'{}',1795311313365448,1795311313365448,NULL,2,0,NULL,0);
INSERT INTO "sessions" VALUES(3,'ravi','ravi',NULL,'{}',1795311313367468,1795311313426399,NULL,3,27,NULL,0);
INSERT INTO "sessions" VALUES(4,'nobody''s',NULL,NULL,'{}',1795311313378518,1795311313431401,NULL,4,27,NULL,0);
CREATE INDEX sessions_user ON sessions(user_id) WHERE user_id IS NOT NULL;
CREATE UNIQUE INDEX records_seq ON records(sid, seq);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('sessions',5);
COMMIT;
